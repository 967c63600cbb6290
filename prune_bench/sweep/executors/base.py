"""What the runner asks of an executor: take a job when a slot is free, and say what became of it.

Artifacts move through the store; what comes back is only word of the outcome.
"""

from __future__ import annotations

import hashlib
import time
import traceback
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from prune_bench.sweep.stages import Stage
from prune_bench.sweep.store import Artifact, Store

if TYPE_CHECKING:
    from prune_bench.training import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Job:
    """A stage, or a pack of stages, and where it is done.

    Attributes:
        lanes: What to do, side by side; None for a lane of the pack that is not wanted now.
        pack: The keys of all lanes.
        store: The store's folder.
        device: As torch names it.
        threads: CPU threads.
        checkpoint_seconds: Of a training, between two checkpoints.
    """

    lanes: tuple[Stage | None, ...]
    pack: tuple[str, ...]
    store: Path
    device: str
    threads: int
    checkpoint_seconds: float


@dataclass(frozen=True)
class Failure:
    """Why a stage failed, and the traceback."""

    reason: str
    trace: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a job.

    Attributes:
        seconds: How long it took.
        failed: Stages that failed, by key; the others' artifacts are in the store.
    """

    seconds: float
    failed: dict[str, Failure] = field(default_factory=dict)


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
    """Does a job in this process: reads the stages' inputs from the store, computes, writes their artifacts."""
    # Imported here because a driver that only watches workers needs no torch of its own.
    import torch

    torch.set_num_threads(job.threads)
    device, begun = torch.device(job.device), time.perf_counter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    wanted = [stage for stage in job.lanes if stage is not None]
    failed: dict[str, Failure] = {}
    if (failure := _try(job, job.lanes)) and len(wanted) == 1:
        failed[wanted[0].key] = failure
    elif failure:
        # One lane's fault must cost the others nothing: each is done without them, in its own place of the pack.
        for stage in wanted:
            if failure := _try(job, tuple(lane if lane is stage else None for lane in job.lanes)):
                failed[stage.key] = failure
    return Outcome(seconds=time.perf_counter() - begun, failed=failed)


def _try(job: Job, lanes: tuple[Stage | None, ...]) -> Failure | None:
    try:
        _do(job, lanes)
    except Exception as error:  # a fault in one stage must cost no other: it becomes data
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())
    return None


def _do(job: Job, lanes: tuple[Stage | None, ...]) -> None:
    import torch

    from prune_bench.sweep.compute import compute, made_by

    store, device = Store(job.store), torch.device(job.device)
    wanted = next(stage for stage in lanes if stage is not None)
    # A lane that is not wanted is filled with one that is: the shapes, and with them the bits, stay the pack's.
    stages = [wanted if lane is None else lane for lane in lanes]
    inputs = {stage.key: _read_inputs(stage, store) for stage in stages}
    checkpoint = _checkpoint(job, stages)
    artifacts = compute(stages, [inputs[stage.key] for stage in stages], device, checkpoint)
    for lane, artifact in zip(lanes, artifacts):
        if lane is not None:
            record = {"made_by": made_by(device, len(lanes)), **artifact.record}
            if len(lanes) > 1:
                record["packed"] = list(job.pack)
            store.write(lane.key, Artifact(record, artifact.tensors))
    checkpoint.remove()


def _checkpoint(job: Job, stages: list[Stage]) -> Checkpoint:
    """Of exactly these lanes: a checkpoint of others would hold other networks."""
    from prune_bench.training import Checkpoint

    name = hashlib.sha256("\n".join(stage.key for stage in stages).encode()).hexdigest()[:32]
    return Checkpoint(path=job.store / "checkpoints" / f"{name}.ckpt", every=job.checkpoint_seconds)


def _read_inputs(stage: Stage, store: Store) -> dict[str, Artifact]:
    inputs = {role: store.read(key) for role, key in stage.inputs.items()}
    present = {role: artifact for role, artifact in inputs.items() if artifact is not None}
    if missing := sorted(set(inputs) - set(present)):
        raise FileNotFoundError(f"its inputs are gone from the store: {', '.join(missing)}; run the sweep again")
    return present
