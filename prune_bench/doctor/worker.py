"""The process in which checks run: requests come in as lines of JSON, answers go out as lines of JSON."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib import import_module
from typing import IO, Any

from prune_bench.config import make_experiment
from prune_bench.doctor.lines import Line, Look, Subject
from prune_bench.sweep.executors.device_faults import DeviceFault, Fault, fault_of
from prune_bench.sweep.executors.ranks import follow


def main() -> None:
    """Answers requests until there are no more."""
    follow(os.getppid())
    # What libraries print must not come between the answers.
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)
        for request in sys.stdin:
            print(json.dumps(_answered(json.loads(request), answers)), file=answers)


def _answered(request: dict[str, Any], answers: IO[str]) -> bool:
    """Writes a check's lines; False if this process can do no other check."""
    try:
        for line in answer(request):
            print(json.dumps(asdict(line)), file=answers)
    except DeviceFault:
        return False
    return True


def answer(request: dict[str, Any]) -> Iterator[Line]:
    """A check's lines, each with the time since the last.

    Args:
        request: ``name`` and ``function`` of the check; ``experiment``, ``device`` and ``known`` of the subject.

    Raises:
        DeviceFault: The check has met an error of the device, after which CUDA may answer nothing else here.
    """
    begun = time.perf_counter()
    try:
        subject = Subject(
            experiment=make_experiment(request["experiment"]), device=request["device"], known=request["known"]
        )
        for line in _look(request["function"])(subject):
            yield replace(line, seconds=time.perf_counter() - begun)
            begun = time.perf_counter()
    except Exception as error:  # whatever a machine does to a check, the others are made
        traceback.print_exc()
        words = f"{type(error).__name__}: {error}".strip()
        yield Line(name=request["name"], verdict="mend", words=words, seconds=time.perf_counter() - begun)
        if (fault := fault_of(error)) not in (Fault.STAGE, Fault.MEMORY):
            raise DeviceFault(words, fault) from error


def _look(function: str) -> Look:
    module, _, name = function.partition(":")
    found: Look = getattr(import_module(module), name)
    return found


if __name__ == "__main__":
    main()
