"""One spawned, long-lived worker process a slot."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace

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
        device, visible = own_device(self.devices[slot], os.environ.get("CUDA_VISIBLE_DEVICES"))
        if pool is None or getattr(pool, "_broken", False):
            pool = self._pools[slot] = ProcessPoolExecutor(
                max_workers=1,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(os.getpid(),),
            )
        # The worker is spawned while the first job is submitted, and must find this before it imports torch.
        with _environment(visible):
            return pool.submit(run_job, replace(job, device=device))

    def kill(self, slot: int) -> None:
        """Ends the slot's worker."""
        for process in list((getattr(self._pools[slot], "_processes", None) or {}).values()):
            process.kill()

    def close(self) -> None:
        """Ends the workers at once."""
        for slot, pool in enumerate(self._pools):
            if pool is not None:
                self.kill(slot)
                pool.shutdown(wait=True, cancel_futures=True)


def own_device(device: str, visible: str | None) -> tuple[str, dict[str, str]]:
    """What a worker that sees one GPU only calls it, and the environment that makes it so.

    Args:
        device: What the driver calls it, for example ``cuda:3``.
        visible: The driver's own ``CUDA_VISIBLE_DEVICES``.
    """
    if not device.startswith("cuda:"):
        return device, {}
    index = int(device.partition(":")[2])
    names = visible.split(",") if visible else []
    return "cuda:0", {"CUDA_VISIBLE_DEVICES": names[index] if names else str(index)}


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _begin(driver: int) -> None:
    """A worker leaves Ctrl-C to the driver, and goes when the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(driver,), daemon=True).start()


def _follow(driver: int) -> None:
    while os.getppid() == driver:
        time.sleep(1)
    os._exit(1)
