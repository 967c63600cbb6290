"""What the runner asks of an executor: take a job when a slot is free, and say what became of it.

Artifacts move through the store; what comes back is only word of the outcome.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import logging
import time
import traceback
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from prune_bench.config import Limits, Replay
from prune_bench.errors import message_of
from prune_bench.sweep.executors.device_faults import DeviceFault, Fault, fault_of
from prune_bench.sweep.executors.ranks import RankError, launch, leaves_ctrl_c_to_parent
from prune_bench.sweep.executors.time_limit import at_most
from prune_bench.sweep.failures import Failure
from prune_bench.sweep.logs import log_name, stage_log
from prune_bench.sweep.stages import Stage
from prune_bench.sweep.store import Artifact, Store

if TYPE_CHECKING:
    import torch

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
        replay: Whether steps are recorded and replayed.
        halved_from: Keys of the pack that did not fit in memory, of which this is a part; empty for a whole one.
        alone: Whether nothing else may run on the device meanwhile.
    """

    lanes: tuple[Stage | None, ...]
    pack: tuple[str, ...]
    store: str
    device: str
    threads: int
    seeds: tuple[int, ...]
    limits: Limits
    replay: Replay = "auto"
    halved_from: tuple[str, ...] = ()
    alone: bool = False


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
        devices: The device of each slot, as torch names it there.
        places: The device of each slot, as one name for one device: slots of one place share its memory. An executor
            without it has ``devices`` name them.
    """

    devices: list[str]

    def submit(self, job: Job, slot: int) -> Future[Outcome]:
        """Starts a job in a free slot; its failure is an outcome, a slot's death the future's ``BrokenExecutor``.

        A :class:`DeviceFault` is such a death too: whatever comes next to the slot finds a fresh process.
        """

    def kill(self, slot: int) -> None:
        """Ends what runs in a slot at once, as if it had died; one that cannot be ended is left alone."""

    def close(self) -> None:
        """Stops everything at once; what is unfinished is lost."""


def run_job(job: Job) -> Outcome:
    """Does a job, in this process or in one a device that shares it.

    Reads the stages' inputs from the store, computes, writes their artifacts.

    Raises:
        DeviceFault: The device failed, or this process can use it no more.
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
    # Full memory would be as full: a lane that is done alone has fillers beside it.
    if len(wanted) == 1 or failure.out_of_memory:
        return {stage.key: failure for stage in wanted}
    # One lane's fault must cost the others nothing: each is done without them, in its own place of the pack.
    alone = {s.key: _try(job, tuple(lane if lane is s else None for lane in job.lanes)) for s in wanted}
    return {key: failure for key, failure in alone.items() if failure is not None}


def _try(job: Job, lanes: tuple[Stage | None, ...]) -> Failure | None:
    alive = [stage for stage in lanes if stage is not None]
    import prune_bench.sweep.compute  # noqa: F401  # torch: what a worker's first import takes is no stage's time

    log.info("on %s: %s", job.device, "; ".join(f"{stage.kind} {stage.label}" for stage in alive))
    try:
        with at_most(job.limits.stage_seconds and job.limits.stage_seconds * len(alive)):
            _run(job, lanes, alive[0])
    except BrokenExecutor as death:
        log.error("died: %s", death)
        raise
    except BaseException as error:  # a fault in one stage must cost no other: it becomes data
        if isinstance(error, KeyboardInterrupt) and not leaves_ctrl_c_to_parent():
            raise
        log.exception("failed")
        failure = _failure(error, job)
    else:
        return None
    if failure.out_of_memory:
        _let_go_of_memory()
    return failure


def _run(job: Job, lanes: tuple[Stage | None, ...], first: Stage) -> None:
    devices = job.device.split("+")
    if not first.needs_device:
        _do("cpu", job, lanes)
    elif len(devices) == 1:
        _do(devices[0], job, lanes)
    else:
        launch(_do, devices, job, lanes)


def _failure(error: BaseException, job: Job) -> Failure:
    """What a stage's error says of it.

    Raises:
        DeviceFault: It says nothing of the stage, or nothing else can be done in this process any more.
    """
    fault = fault_of(error)
    # On the CPU such words mean that the stage has asked for a device of its own.
    if fault not in (Fault.STAGE, Fault.MEMORY) and not job.device.startswith("cpu"):
        raise DeviceFault(_reason(error), fault) from error
    trace = error.trace if isinstance(error, RankError) else traceback.format_exc()
    first = next(stage.key for stage in job.lanes if stage is not None)
    return Failure(reason=_reason(error), trace=trace, log=log_name(first), out_of_memory=fault is Fault.MEMORY)


def _reason(error: BaseException) -> str:
    return f"{error.kind if isinstance(error, RankError) else type(error).__name__}: {message_of(error)}"


def _let_go_of_memory() -> None:
    """Gives the device back what a failed try held: whoever is next to it, or comes next, needs it."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()


def _do(place: str, job: Job, lanes: tuple[Stage | None, ...]) -> None:
    import torch

    from prune_bench.memory import keep_freed_memory
    from prune_bench.parallel import rank
    from prune_bench.sweep.compute import compute, made_by
    from prune_bench.training.replay import recorded_steps, replay_here

    torch.set_num_threads(job.threads)
    keep_freed_memory()
    store, device = Store(job.store), torch.device(place)
    if device.type == "cuda":
        _open(device)
    stages = _filled(lanes, job.seeds)
    inputs = [_read_inputs(stage, store) for stage in stages]
    checkpoint = _checkpoint(job, stages)
    with recorded_steps("graph" if replay_here(job.replay, device) else None) as recording:
        artifacts = compute(stages, inputs, device, checkpoint)
    if rank() != 0:
        return
    where = made_by(device, len(lanes)) | ({"replayed": True} if recording.replayed else {})
    for lane, artifact in zip(lanes, artifacts):
        if lane is not None:
            record = {"made_by": where, **artifact.record}
            if len(lanes) > 1 or job.halved_from:
                record |= {"packed": list(job.pack), "packed_seeds": list(job.seeds)}
            if job.halved_from:
                record["halved_from"] = list(job.halved_from)
            store.write(lane.key, Artifact(record, artifact.tensors))
    checkpoint.remove()


def _open(device: torch.device) -> None:
    """Begins with a GPU by a little work on it: what fails here is no job's fault.

    Raises:
        DeviceFault: It cannot be used: it is dead, busy or hidden, or the driver does not suit.
    """
    import torch

    try:
        torch.cuda.init()  # before it, torch refuses the rest with "Invalid device argument"
        torch.cuda.reset_peak_memory_stats(device)
        torch.ones(1, device=device).add(1).item()
    except (RuntimeError, AssertionError) as error:
        if fault_of(error) is Fault.MEMORY:
            raise
        raise DeviceFault(_reason(error), Fault.START) from error


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
