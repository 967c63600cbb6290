"""Stages one after another in this process."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor, Future

from prune_bench.errors import DeviceError
from prune_bench.sweep.executors.base import Job, Outcome, run_job
from prune_bench.sweep.executors.device_faults import DeviceFault


class InlineExecutor:
    """One slot: this process, on one device."""

    def __init__(self, device: str) -> None:
        self.devices = [device]

    def submit(self, job: Job, slot: int) -> Future[Outcome]:
        """Does the job before it returns; the future raises ``BrokenExecutor`` if a rank of it dies.

        A device that fails this process is no rank's death but the end: there is no fresh process to try it again.
        The future then raises ``DeviceError``.
        """
        future: Future[Outcome] = Future()
        try:
            future.set_result(run_job(job))
        except BrokenExecutor as error:
            own = isinstance(error, DeviceFault) and "+" not in job.device
            future.set_exception(_told(job, error) if own else error)
        return future

    def kill(self, slot: int) -> None:
        """Nothing can end a job of one's own process from outside."""

    def close(self) -> None:
        """Nothing is left running."""


def _told(job: Job, error: BrokenExecutor) -> DeviceError:
    stages = ", ".join(f"{lane.kind} {lane.label}" for lane in job.lanes if lane is not None)
    return DeviceError(
        f"{job.device} fails: {error}, in {stages}; it is not recorded as failed. executor=processes tries such a "
        "stage again in a fresh process; devices.accelerator=cpu needs no GPU"
    )
