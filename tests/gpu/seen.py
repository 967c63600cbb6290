"""What a pretended GPU has seen: faults, waits, operators."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from torch import Tensor

import prune_bench

PACKAGE = str(Path(prune_bench.__file__).parent)
HERE = str(Path(__file__).parent)


@dataclass
class Seen:
    """What a pretended GPU has seen.

    Attributes:
        faults: What a real GPU would refuse, with its place; raised too, but the product may catch what is raised.
        waits: Points where the host waits for the GPU, with their places.
        waits_in_steps: Those inside :meth:`steps`.
        steps_taken: Batches used inside :meth:`steps`.
        scattering: Operators that may give other bits from run to run, each with the function that uses it.
        slow_lists: ``_foreach`` operators that launch a kernel a tensor, each with the function that uses it.
        launches: Kernels by operator, counted only while ``counting``.
    """

    faults: list[str] = field(default_factory=list)
    waits: Counter[str] = field(default_factory=Counter)
    waits_in_steps: Counter[str] = field(default_factory=Counter)
    steps_taken: int = 0
    scattering: set[tuple[str, str]] = field(default_factory=set)
    slow_lists: set[tuple[str, str]] = field(default_factory=set)
    launches: Counter[str] = field(default_factory=Counter)
    counting: bool = False
    _in_steps: bool = False
    _pinned: list[Tensor] = field(default_factory=list)

    def fault(self, error: Exception) -> NoReturn:
        """Notes and raises ``error``."""
        self.faults.append(f"{error} @ {' '.join(place())}")
        raise error

    def wait(self, words: str) -> None:
        """Notes a wait."""
        line = f"{words} @ {' '.join(place())}"
        self.waits[line] += 1
        if self._in_steps:
            self.waits_in_steps[line] += 1

    @contextlib.contextmanager
    def steps(self) -> Iterator[None]:
        """Inside it a loop of steps runs that has begun."""
        self._in_steps = True
        try:
            yield
        finally:
            self._in_steps = False

    def pin(self, host: Tensor) -> Tensor:
        """A copy of ``host`` in pinned memory."""
        self._pinned.append(host.clone())  # held, so that no other tensor gets its address
        return self._pinned[-1]

    def is_pinned(self, host: Tensor) -> bool:
        """True if ``host``, or what it is a view of, is in pinned memory."""
        address = host.untyped_storage().data_ptr()
        return any(address == own.untyped_storage().data_ptr() for own in self._pinned)


def place() -> tuple[str, str]:
    """Line and name of the package's function that runs now; outside of the package of the first one not torch's."""
    frame, others = sys._getframe(1), []
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PACKAGE):
            return f"{file.removeprefix(PACKAGE + '/')}:{frame.f_lineno}", frame.f_code.co_name
        if not file.startswith(HERE) and "/torch/" not in file:
            others.append((f"{Path(file).name}:{frame.f_lineno}", frame.f_code.co_name))
        frame = frame.f_back
    return others[0]
