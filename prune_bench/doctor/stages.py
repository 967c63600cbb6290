"""A stage of each kind, done as a sweep does it: in a store, by a job."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

from prune_bench.config import Limits
from prune_bench.doctor.lines import Line, Subject
from prune_bench.doctor.toy import toy_experiment
from prune_bench.sweep.executors.base import Job, run_job
from prune_bench.sweep.executors.device_faults import DeviceFault
from prune_bench.sweep.stages import KINDS, Kind, Stage
from prune_bench.sweep.sweep import prepare


def look(subject: Subject) -> Iterator[Line]:
    """One line if all is well; a line for each stage that fails."""
    yield from run_stages(subject, subject.device, name="stages")


def run_stages(subject: Subject, device: str, name: str, kinds: tuple[Kind, ...] = KINDS) -> Iterator[Line]:
    """Does the stages of one toy cell, from fresh weights to the result.

    Args:
        subject: Tells the number of threads.
        device: As torch names it; several are joined by ``+``.
        name: What the line is called.
        kinds: Those to do.

    Raises:
        DeviceFault: The device fails.
    """
    plan = prepare(toy_experiment())
    with tempfile.TemporaryDirectory(prefix="prune-bench-doctor-") as store:
        for stage in (stage for stage in plan.stages.values() if stage.kind in kinds):
            job = _job(stage, store, device, subject.experiment.devices.threads)
            try:
                failed = run_job(job).failed
            except DeviceFault as fault:
                raise DeviceFault(f"in a {stage.kind} on {device}: {fault}", fault.fault) from fault
            if failed:
                ((_, failure),) = failed.items()
                words = f"a {stage.kind} fails on {device}: {failure.reason}"
                yield Line(name=name, verdict="mend", words=words, values={"trace": failure.trace})
                return  # the others need it
    words = f"one of each kind on {device}: {', '.join(kinds)}"
    yield Line(name=name, verdict="pass", words=words)


def _job(stage: Stage, store: str, device: str, threads: int) -> Job:
    return Job(
        lanes=(stage,), pack=(stage.key,), seeds=(stage.spec["seed"],), store=store, device=device, threads=threads,
        limits=Limits(),
    )  # fmt: skip
