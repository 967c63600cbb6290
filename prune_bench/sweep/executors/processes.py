"""One spawned, long-lived worker process a slot."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace

from prune_bench.stopping import shield_resource_tracker
from prune_bench.sweep.executors.base import Job, Outcome, run_job
from prune_bench.sweep.executors.device_faults import DeviceFault
from prune_bench.sweep.executors.ranks import follow


class ProcessExecutor:
    """A worker a slot, made anew when it dies, or when a device has failed it.

    Args:
        devices: The device of each slot.
    """

    def __init__(self, devices: list[str]) -> None:
        self.devices = devices
        self._pools: list[ProcessPoolExecutor | None] = [None for _ in devices]
        shield_resource_tracker()

    def submit(self, job: Job, slot: int) -> Future[Outcome]:
        """Starts the job in the slot's worker; the future raises ``BrokenExecutor`` if that or a rank of it dies."""
        device, visible = own_device(self.devices[slot], os.environ.get("CUDA_VISIBLE_DEVICES"))
        pool = self._pool(slot)
        future: Future[Outcome] = Future()
        # The worker is spawned while the first job is submitted, and must find this before it imports torch.
        with _environment(visible):
            inner = pool.submit(run_job, replace(job, device=device))
        inner.add_done_callback(lambda done: self._settle(slot, done, future))
        return future

    def _pool(self, slot: int) -> ProcessPoolExecutor:
        pool = self._pools[slot]
        if pool is None or getattr(pool, "_broken", False):
            pool = self._pools[slot] = ProcessPoolExecutor(
                max_workers=1,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=follow,
                initargs=(os.getpid(),),
            )
        return pool

    def _settle(self, slot: int, done: Future[Outcome], future: Future[Outcome]) -> None:
        """Hands on what became of a job; before that a worker goes that cannot use its device any more."""
        if done.cancelled():
            future.cancel()
            return
        error = done.exception()
        if isinstance(error, DeviceFault):
            self.kill(slot)
            self._pools[slot] = None
        if error is None:
            future.set_result(done.result())
        else:
            future.set_exception(error)

    def kill(self, slot: int) -> None:
        """Ends the slot's worker; the ranks that it has follow it."""
        for process in list((getattr(self._pools[slot], "_processes", None) or {}).values()):
            process.kill()

    def close(self) -> None:
        """Ends the workers at once."""
        for slot, pool in enumerate(self._pools):
            if pool is not None:
                self.kill(slot)
                pool.shutdown(wait=True, cancel_futures=True)


def own_device(device: str, visible: str | None) -> tuple[str, dict[str, str]]:
    """What a worker that sees its own GPUs only calls them, and the environment that makes it so.

    Args:
        device: What the driver calls them, for example ``cuda:3``, or ``cuda:2+cuda:3``.
        visible: The driver's own ``CUDA_VISIBLE_DEVICES``.
    """
    if not device.startswith("cuda:"):
        return device, {}
    indices = [int(part.partition(":")[2]) for part in device.split("+")]
    names = [name.strip() for name in visible.split(",")] if visible else []
    own = ",".join(names[index] if names else str(index) for index in indices)
    return "+".join(f"cuda:{i}" for i in range(len(indices))), {"CUDA_VISIBLE_DEVICES": own}


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
