"""One spawned, long-lived worker process a slot."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor

from prune_bench.sweep.executors.base import Job, Outcome, run_job


class ProcessExecutor:
    """A worker a slot, made anew when it dies.

    Args:
        devices: The device of each slot.
    """

    def __init__(self, devices: list[str]) -> None:
        self.devices = devices
        self._pools: list[ProcessPoolExecutor | None] = [None for _ in devices]

    def submit(self, job: Job, slot: int) -> Future[Outcome]:
        """Starts the job in the slot's worker; the future raises ``BrokenProcessPool`` if that dies."""
        pool = self._pools[slot]
        if pool is None or getattr(pool, "_broken", False):
            pool = self._pools[slot] = ProcessPoolExecutor(
                max_workers=1,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(os.getpid(),),
            )
        return pool.submit(run_job, job)

    def close(self) -> None:
        """Ends the workers at once."""
        for pool in self._pools:
            if pool is not None:
                for process in list((getattr(pool, "_processes", None) or {}).values()):
                    process.kill()
                pool.shutdown(wait=True, cancel_futures=True)


def _begin(driver: int) -> None:
    """A worker leaves Ctrl-C to the driver, and goes when the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(driver,), daemon=True).start()


def _follow(driver: int) -> None:
    while os.getppid() == driver:
        time.sleep(1)
    os._exit(1)
