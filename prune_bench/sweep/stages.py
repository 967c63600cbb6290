"""Stages: what is computed for a cell, and the one place that decides what a thing's key is.

``state -> ranking(s) -> ticket -> training -> result``. A stage's key is a hash of all that determines its outcome:
its kind and that kind's version, its own specification, and its inputs' keys; never of devices, executor or paths.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from prune_bench.sweep.cells import Cell

Kind = Literal["state", "ranking", "ticket", "training", "result"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""In the order of the work."""
VERSIONS: dict[Kind, int] = {"state": 1, "ranking": 1, "ticket": 1, "training": 1, "result": 1}
"""To be raised when a kind's meaning changes, so that what was computed before is not taken for it."""


@dataclass(frozen=True)
class Stage:
    """One piece of work.

    Attributes:
        kind: Which; :mod:`prune_bench.sweep.compute` says how each is done.
        label: What people call it.
        spec: All that determines its outcome beside its inputs; plain values.
        inputs: The keys of the artifacts it reads, by role.
        cost: What it is expected to cost, in dense epochs; for the order and the progress display only.
        where: Options of the data set that say where and how it is read; in no key.
        alike: Stages of the same word can be computed side by side; empty for those that stand alone. In no key.
        step_images: Images of one of its optimisation steps, for those that can.
        method: The label of the method it is for; empty if it serves several. In no key.
    """

    kind: Kind
    label: str
    spec: dict[str, Any]
    inputs: dict[str, str] = field(default_factory=dict)
    cost: float = 0.0
    where: dict[str, Any] = field(default_factory=dict)
    alike: str = ""
    step_images: int = 0
    method: str = ""

    @cached_property
    def key(self) -> str:
        """The content key: the kind and 32 hexadecimal digits."""
        said = {"version": VERSIONS[self.kind], "spec": self.spec, "inputs": self.inputs}
        digits = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]
        return f"{self.kind}-{digits}"

    @property
    def needs_device(self) -> bool:
        """False for fresh weights, tickets and results: quickly done on the CPU, without a word to a GPU."""
        return self.kind in ("ranking", "training") or (self.kind == "state" and bool(self.inputs))


@dataclass(frozen=True)
class Plan:
    """What a sweep will do.

    Attributes:
        cells: Each cell and the key of its result.
        stages: Every stage by key, each after its inputs.
    """

    cells: dict[Cell, str]
    stages: dict[str, Stage]
