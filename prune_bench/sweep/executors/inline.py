"""Stages one after another in this process."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor, Future

from prune_bench.sweep.executors.base import Job, Outcome, run_job


class InlineExecutor:
    """One slot: this process, on one device."""

    def __init__(self, device: str) -> None:
        self.devices = [device]

    def submit(self, job: Job, slot: int) -> Future[Outcome]:
        """Does the job before it returns; the future raises ``BrokenExecutor`` if a rank of it dies."""
        future: Future[Outcome] = Future()
        try:
            future.set_result(run_job(job))
        except BrokenExecutor as error:
            future.set_exception(error)
        return future

    def kill(self, slot: int) -> None:
        """Nothing can end a job of one's own process from outside."""

    def close(self) -> None:
        """Nothing is left running."""
