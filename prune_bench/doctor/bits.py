"""Bits: a replayed step against a plain one, and the same work done twice."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch

from prune_bench.config import Precision
from prune_bench.doctor.lines import Line, Subject
from prune_bench.doctor.toy import STEPS, WORKS, Work, difference, outcome, precisions
from prune_bench.sweep.executors.device_faults import Fault, fault_of
from prune_bench.sweep.store import Artifact
from prune_bench.training.replay import recorded_steps

_TOLERANCE = 1e-6  # of the norm
_OFF = "devices.replay: auto leaves it off"


def replay(subject: Subject) -> Iterator[Line]:
    """Plain and replayed steps: a line if all bits are equal, and one for each kind of step that differs."""
    device, found = _prepared(subject), {}
    for work in WORKS:
        for precision in precisions(device, subject.known):
            kind = f"{work} {precision}"
            apart, words = _replayed(work, precision, device)
            if apart is not None:
                found[kind] = apart
            if words:
                verdict = "figure" if apart is not None and apart <= _TOLERANCE else "mend"
                yield Line(name="replay", verdict=verdict, words=f"{kind}: {words}; {_OFF}")  # type: ignore[arg-type]
    equal = [kind for kind, apart in found.items() if apart == 0]
    complete = len(found) == len(WORKS) * len(precisions(device, subject.known))
    verdict = "pass" if len(equal) == len(found) and complete else "figure"
    words = f"{STEPS} steps plain and recorded: equal bits in {', '.join(equal) or 'none'}"
    values = {"replay": found if complete else {}}
    yield Line(name="replay", verdict=verdict, words=words, values=values)  # type: ignore[arg-type]


def twice(subject: Subject) -> Iterator[Line]:
    """The same work twice: without equal bits a rerun gives another result."""
    device, different = _prepared(subject), []
    kinds = [(work, precision) for work in WORKS for precision in precisions(device, subject.known)]
    for work, precision in kinds:
        if apart := difference(_plain(work, precision, device), outcome(work, precision, device)):
            different.append(f"{work} {precision} by {apart:.1g}")
    if different:
        words = f"the same steps end with other bits: {'; '.join(different)}. A rerun gives other results here"
        yield Line(name="twice", verdict="mend", words=words)
        return
    words = f"the same {STEPS} steps end with the same bits, in all {len(kinds)} kinds"
    yield Line(name="twice", verdict="pass", words=words)


def _prepared(subject: Subject) -> torch.device:
    torch.set_num_threads(subject.experiment.devices.threads)
    return torch.device(subject.device)


def _replayed(work: Work, precision: Precision, device: torch.device) -> tuple[float | None, str]:
    """How far replayed steps are from plain ones, None if they were not replayed, and words unless bits are equal."""
    try:
        with recorded_steps("graph" if device.type == "cuda" else "tape") as recording:
            recorded = outcome(work, precision, device)
    except RuntimeError as error:  # of CUDA: the other kinds are tried all the same, if they can be
        if fault_of(error) is Fault.DEVICE:
            raise
        return None, f"fails: {str(error).splitlines()[0]}"
    if recording.refused or not recording.replayed:
        return None, "cannot be recorded"
    apart = difference(_plain(work, precision, device), recorded)
    if not apart:
        return 0.0, ""
    return apart, f"replay differs by {apart:.1g} of the norm" + (
        ", which rounding can do" if apart <= _TOLERANCE else ""
    )


@lru_cache(maxsize=16)
def _plain(work: Work, precision: Precision, device: torch.device) -> Artifact:
    with recorded_steps(None):
        return outcome(work, precision, device)
