"""What the runner asks of an executor: take a job when a slot is free, and say what became of it.

Artifacts move through the store; what comes back is only word of the outcome.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from prune_bench.config import Limits
from prune_bench.sweep.executors.ranks import RankError, launch
from prune_bench.sweep.failures import Failure
from prune_bench.sweep.logs import log_name, stage_log
from prune_bench.sweep.stages import Stage
from prune_bench.sweep.store import Artifact, Store

if TYPE_CHECKING:
    from prune_bench.training import Checkpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A stage, or a pack of stages, and where it is done.

    Attributes:
        lanes: What to do, side by side; None for a lane of the pack that is not wanted now.
        pack: The keys of all lanes.
        store: Where the store is.
        device: As torch names it; several that share the stage are joined by ``+``.
        threads: CPU threads.
        seeds: Of all lanes: those of one seed have their data in common and, in a search, the dense network.
        limits: How long a stage may take, and how often a training writes a checkpoint.
    """

    lanes: tuple[Stage | None, ...]
    pack: tuple[str, ...]
    store: str
    device: str
    threads: int
    seeds: tuple[int, ...]
    limits: Limits


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
        """Starts a job in a free slot; its failure is an outcome, a slot's death the future's ``BrokenExecutor``."""

    def kill(self, slot: int) -> None:
        """Ends what runs in a slot at once, as if it had died; one that cannot be ended is left alone."""

    def close(self) -> None:
        """Stops everything at once; what is unfinished is lost."""


def run_job(job: Job) -> Outcome:
    """Does a job, in this process or in one a device that shares it.

    Reads the stages' inputs from the store, computes, writes their artifacts.

    Raises:
        BrokenExecutor: One of several processes died.
    """
    begun = time.perf_counter()
    wanted = [stage for stage in job.lanes if stage is not None]
    with stage_log(Store(job.store).files, wanted[0].key):
        failed = _do_all(job, wanted)
        seconds = time.perf_counter() - begun
        log.info("%d of %d stages failed, after %.1f s", len(failed), len(wanted), seconds)
    return Outcome(seconds=seconds, failed=failed)


def _do_all(job: Job, wanted: list[Stage]) -> dict[str, Failure]:
    failure = _try(job, job.lanes)
    if failure is None:
        return {}
    if len(wanted) == 1:
        return {wanted[0].key: failure}
    # One lane's fault must cost the others nothing: each is done without them, in its own place of the pack.
    alone = {s.key: _try(job, tuple(lane if lane is s else None for lane in job.lanes)) for s in wanted}
    return {key: failure for key, failure in alone.items() if failure is not None}


def _try(job: Job, lanes: tuple[Stage | None, ...]) -> Failure | None:
    wanted = [stage for stage in job.lanes if stage is not None]
    alive = [stage for stage in lanes if stage is not None]
    import prune_bench.sweep.compute  # noqa: F401  # torch: what a worker's first import takes is no stage's time

    devices, limit = job.device.split("+"), job.limits.stage_seconds
    log.info("on %s: %s", job.device, "; ".join(f"{stage.kind} {stage.label}" for stage in alive))
    try:
        with _at_most(limit and limit * len(alive)):
            # Fresh weights have no inputs; they, a ticket and a result are quicker done than shared.
            if len(devices) == 1 or not alive[0].inputs or alive[0].kind in ("ticket", "result"):
                _do(devices[0], job, lanes)
            else:
                launch(_do, devices, job, lanes)
    except BrokenExecutor as death:
        log.error("died: %s", death)
        raise
    except Exception as error:  # a fault in one stage must cost no other: it becomes data
        log.exception("failed")
        return _failure(error, log_name(wanted[0].key))
    return None


def _failure(error: Exception, log: str) -> Failure:
    kind = error.kind if isinstance(error, RankError) else type(error).__name__
    trace = error.trace if isinstance(error, RankError) else traceback.format_exc()
    return Failure(reason=f"{kind}: {error}", trace=trace, log=log, out_of_memory=kind == "OutOfMemoryError")


@contextlib.contextmanager
def _at_most(seconds: float | None) -> Iterator[None]:
    """Raises ``TimeoutError`` in what takes longer; what hangs outside of Python is left to :meth:`Executor.kill`."""
    possible = hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()
    if seconds is None or not possible:
        yield
        return

    def overrun(*_: Any) -> None:
        raise TimeoutError(f"it took longer than limits.stage_seconds allows ({seconds:g} s in all)")

    before = signal.signal(signal.SIGALRM, overrun)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _do(place: str, job: Job, lanes: tuple[Stage | None, ...]) -> None:
    import torch

    from prune_bench.memory import keep_freed_memory
    from prune_bench.parallel import rank
    from prune_bench.sweep.compute import compute, made_by

    torch.set_num_threads(job.threads)
    keep_freed_memory()
    store, device = Store(job.store), torch.device(place)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    stages = _filled(lanes, job.seeds)
    inputs = [_read_inputs(stage, store) for stage in stages]
    checkpoint = _checkpoint(job, stages)
    artifacts = compute(stages, inputs, device, checkpoint)
    if rank() != 0:
        return
    for lane, artifact in zip(lanes, artifacts):
        if lane is not None:
            record = {"made_by": made_by(device, len(lanes)), **artifact.record}
            if len(lanes) > 1:
                record |= {"packed": list(job.pack), "packed_seeds": list(job.seeds)}
            store.write(lane.key, Artifact(record, artifact.tensors))
    checkpoint.remove()


def _filled(lanes: tuple[Stage | None, ...], seeds: tuple[int, ...]) -> list[Stage]:
    """The lanes, each that is not wanted filled with one that is.

    Shapes, and which lanes have what in common, stay the pack's, and with them the bits: a filler is of its lane's
    own seed, or passes for it.
    """
    wanted = [stage for stage in lanes if stage is not None]
    of_seed = {stage.spec["seed"]: stage for stage in reversed(wanted)}
    passing = {seed: replace(wanted[0], spec=wanted[0].spec | {"seed": seed}) for seed in seeds}
    return [lane or of_seed.get(seed) or passing[seed] for lane, seed in zip(lanes, seeds)]


def _checkpoint(job: Job, stages: list[Stage]) -> Checkpoint:
    """Of exactly these lanes: a checkpoint of others would hold other networks."""
    from prune_bench.training import Checkpoint

    mark = hashlib.sha256("\n".join(stage.key for stage in stages).encode()).hexdigest()[:32]
    files = Store(job.store).files
    return Checkpoint(files=files, name=f"checkpoints/{mark}.ckpt", every=job.limits.checkpoint_seconds)


def _read_inputs(stage: Stage, store: Store) -> dict[str, Artifact]:
    inputs = {role: store.read(key) for role, key in stage.inputs.items()}
    present = {role: artifact for role, artifact in inputs.items() if artifact is not None}
    if missing := sorted(set(inputs) - set(present)):
        raise FileNotFoundError(
            f"its inputs are gone from the store: {', '.join(missing)}; --retry-failed computes them again"
        )
    return present
