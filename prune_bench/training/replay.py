"""Optimisation steps that are recorded once and replayed: a CUDA graph on a GPU, a tape of operators in tests.

A recorded step reads and writes fixed tensors. Its inputs are copied into buffers of its own, and what lasts from one
step to the next (weights, moments, multipliers) must be changed in place. Python numbers such as a learning rate are
part of the record: whoever changes one must :meth:`Replayed.forget` it. A replay runs the operators of the plain step
in the same order, so that results are equal to the bit.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from prune_bench.config import Replay
from prune_bench.device_profile import replay_is_off
from prune_bench.parallel import ranks
from prune_bench.training.records import Graph, HostReads, Operators, Record, Tape

__all__ = ["Graph", "Record", "Recording", "Replayed", "Tape", "record_of", "recorded_steps", "replay_here"]
log = logging.getLogger(__name__)
Kind = Literal["graph", "tape"]
_WARM_UP = 3  # plain steps before the record: the optimiser makes its state, libraries choose their algorithms


@dataclass
class Recording:
    """What :func:`recorded_steps` allows, and what came of it.

    Attributes:
        kind: How steps are recorded; None for plain steps.
        replayed: Steps that were replayed.
        refused: True once a step could not be recorded; later ones are plain.
    """

    kind: Kind | None
    replayed: int = 0
    refused: bool = False


_now = Recording(None)


@contextlib.contextmanager
def recorded_steps(kind: Kind | None) -> Iterator[Recording]:
    """Inside it, trainings and searches replay their steps.

    Args:
        kind: ``graph`` on a GPU, ``tape`` in tests, None for plain steps.
    """
    global _now
    before, _now = _now, Recording(kind)
    try:
        yield _now
    finally:
        _now = before


def replay_here(setting: Replay, device: torch.device) -> bool:
    """Decides whether steps on ``device`` are replayed under ``devices.replay``.

    ``auto`` replays where ``prune-bench doctor`` has seen, with this GPU and these versions, that all bits stay.
    """
    return device.type == "cuda" and (setting == "on" or (setting == "auto" and not _why_off()))


@functools.lru_cache(maxsize=1)
def _why_off() -> str:
    """Asked once a process: the driver takes its time to answer."""
    return replay_is_off()


def record_of(device: torch.device, generators: Sequence[torch.Generator] = ()) -> Callable[[], Record] | None:
    """The kind of record for steps on ``device`` now; None for plain steps.

    Args:
        device: Where the step runs.
        generators: What the step draws from, beside the global generators.
    """
    if _now.kind is None or _now.refused or ranks() > 1 or device.type == "mps":
        return None
    if _now.kind == "tape":
        return functools.partial(Tape, generators)
    return functools.partial(Graph, generators) if device.type == "cuda" else None


class Replayed:
    """A step that is run plainly a few times, then recorded, then replayed.

    A step that reads a value, or cannot be recorded for another reason, stays plain for good. So does a batch of
    another shape than the recorded one.

    Args:
        step: Function of tensors that gives a tensor.
        make: Makes an empty record; None for plain steps.
    """

    def __init__(self, step: Callable[..., Tensor], make: Callable[[], Record] | None) -> None:
        self._step, self._make = step, make
        self._inputs: tuple[Tensor, ...] = ()
        self._warm = 0
        self.forget()

    def forget(self) -> None:
        """Drops the record: a Python number of the step has changed."""
        self._record: Record | None = None
        self._result: Tensor | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Does one step."""
        fits = _alike(self._inputs, inputs)
        if self._make is None or (self._result is not None and not fits):
            return self._step(*inputs)
        if not fits:
            self._inputs, self._warm = tuple(torch.empty_like(given) for given in inputs), 0
        for own, given in zip(self._inputs, inputs):
            own.copy_(given)
        if self._record is None:
            self._record = self._make()
        if self._result is None and self._warm < _WARM_UP:
            return self._warmed_up(self._record)
        if self._result is None:
            self._result = self._recorded(self._record)
        if self._result is None:
            return self._run()
        self._record.replay()
        _now.replayed += 1
        return self._result.clone()

    def _run(self) -> Tensor:
        return self._step(*self._inputs)

    def _warmed_up(self, record: Record) -> Tensor:
        """A plain step; the last one is watched, because a capture that fails is not sure to leave no trace."""
        self._warm += 1
        if self._warm < _WARM_UP:
            return record.warm_up(self._run)
        drawn = _python_draws()
        with Operators() as operators, HostReads() as reads:
            result = record.warm_up(self._run)
        baked = "" if _python_draws() == drawn else "it draws from Python's or NumPy's generator"
        if found := operators.found or reads.found or baked:
            self._refuse(found)
        return result

    def _recorded(self, record: Record) -> Tensor | None:
        try:
            return record.record(self._run)
        except Exception as error:  # CUDA's errors, torch's and the network's own share no base
            self._refuse(str(error).partition("\n")[0])
            return None

    def _refuse(self, reason: str) -> None:
        log.warning("steps are not replayed, because they cannot be recorded: %s", reason)
        self._make, _now.refused = None, True
        self.forget()


def _python_draws() -> tuple[object, bytes, int]:
    """Where the generators of Python and NumPy are; what comes of them would be a constant of the record."""
    _, keys, position, *_ = np.random.get_state(legacy=True)
    return random.getstate(), np.asarray(keys).tobytes(), int(position)


def _alike(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return [(t.shape, t.dtype, t.stride()) for t in one] == [(t.shape, t.dtype, t.stride()) for t in other]
