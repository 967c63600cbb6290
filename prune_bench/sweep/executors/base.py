"""What the runner asks of an executor: take a stage when a slot is free, and say what became of it.

Artifacts move through the store; what comes back is only word of the outcome.
"""

from __future__ import annotations

import time
import traceback
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from prune_bench.sweep.stages import Stage


@dataclass(frozen=True, kw_only=True)
class Job:
    """A stage and where it is done.

    Attributes:
        stage: What to do.
        store: The store's folder.
        device: As torch names it.
        threads: CPU threads.
    """

    stage: Stage
    store: Path
    device: str
    threads: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a stage.

    Attributes:
        seconds: How long it took.
        reason: Why it failed; empty if it did not.
        trace: The traceback of the failure.
    """

    seconds: float
    reason: str = ""
    trace: str = ""


class Executor(Protocol):
    """Runs jobs in slots.

    Attributes:
        devices: The device of each slot.
    """

    devices: list[str]

    def submit(self, job: Job, slot: int) -> Future[Outcome]:
        """Starts a job in a free slot; its failure is an outcome, a slot's death the future's exception."""

    def close(self) -> None:
        """Stops everything at once; what is unfinished is lost."""


def run_job(job: Job) -> Outcome:
    """Does a job in this process: reads the stage's inputs from the store, computes, writes its artifact."""
    # Imported here because a driver that only watches workers needs no torch of its own.
    import torch

    from prune_bench.sweep.compute import compute, made_by
    from prune_bench.sweep.store import Artifact, Store

    torch.set_num_threads(job.threads)
    store, device, begun = Store(job.store), torch.device(job.device), time.perf_counter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        inputs = {role: store.read(key) for role, key in job.stage.inputs.items()}
        present = {role: artifact for role, artifact in inputs.items() if artifact is not None}
        if missing := sorted(set(inputs) - set(present)):
            raise FileNotFoundError(f"its inputs are gone from the store: {', '.join(missing)}; run the sweep again")
        artifact = compute(job.stage, present, device)
        store.write(job.stage.key, Artifact({**artifact.record, "made_by": _made(artifact.record, made_by(device))},
                                            artifact.tensors))  # fmt: skip
    except Exception as error:  # a fault in one stage must cost no other: it becomes data
        seconds = time.perf_counter() - begun
        return Outcome(seconds=seconds, reason=f"{type(error).__name__}: {error}", trace=traceback.format_exc())
    return Outcome(seconds=time.perf_counter() - begun)


def _made(record: dict[str, object], here: dict[str, object]) -> object:
    # A result is made by whoever trained it, not by whoever put its row together.
    return record.get("made_by", here)
