"""A long-lived Ray actor a slot, on this machine or wherever a cluster has room."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from prune_bench.config import Devices
from prune_bench.errors import ConfigError
from prune_bench.sweep.executors.base import Job, Outcome, run_job

_TRIES = 3  # to make an actor, before a job is told that there is none
_PATIENCE = 5.0  # seconds for a cluster's port to open, and for threads to end


class ActorDied(BrokenExecutor):
    """An actor, or the node that it was on, is gone."""


@dataclass(frozen=True)
class _Task:
    job: Job
    slot: int
    future: Future[Outcome]


class RayExecutor:
    """As many actors as slots, and a job goes to whichever is free.

    So an actor that waits for a place, because its node is gone or others use the cluster, holds up no job.

    Args:
        devices: The device of each slot, from :func:`find_slots` or as this machine has them.
        settings: Where the cluster is, and what a slot may use of it.
        work: What an actor does with a job.

    Raises:
        ConfigError: The cluster cannot be reached.
    """

    def __init__(self, devices: list[str], settings: Devices, work: Callable[[Job], Outcome] = run_job) -> None:
        # Ray shows an actor its own GPU only.
        self.devices = ["cuda:0" if name.startswith("cuda") else name for name in devices]
        gpus = len({name for name in devices if name.startswith("cuda")})
        ours = _connect(settings.address, num_cpus=len(devices) * settings.threads, num_gpus=gpus)
        self.dashboard = str(ours.dashboard_url or "")
        share = {"num_cpus": settings.threads, "num_gpus": gpu_share(settings.cells_per_gpu) if gpus else 0}
        self._class: Any = ray.remote(_Actor).options(**share)
        data = {name: value for name, value in os.environ.items() if name.startswith("PRUNE_BENCH_")}
        self._beginning = (work, os.getcwd(), data)
        self._waiting: SimpleQueue[_Task | None] = SimpleQueue()
        self._servants: dict[int, threading.Thread] = {}
        self._actors: dict[int, Any] = {}
        self._at_work: dict[int, Any] = {}
        self._over = False

    def submit(self, job: Job, slot: int) -> Future[Outcome]:
        """Puts the job in line for a free actor; the future raises :class:`ActorDied` if that dies."""
        task = _Task(job, slot, Future())
        self._waiting.put(task)
        if slot not in self._servants:
            self._servants[slot] = threading.Thread(target=self._serve, args=(slot,), daemon=True)
            self._servants[slot].start()
        return task.future

    def kill(self, slot: int) -> None:
        """Ends the actor that does the slot's job; a job that no actor has begun is left alone."""
        if (actor := self._at_work.get(slot)) is not None:
            ray.kill(actor)

    def close(self) -> None:
        """Ends the actors at once, and the Ray that was started for them."""
        self._over = True
        for actor in list(self._actors.values()):
            ray.kill(actor)
        for _ in self._servants:
            self._waiting.put(None)
        for thread in self._servants.values():
            thread.join(_PATIENCE)
        ray.shutdown()

    def _serve(self, index: int) -> None:
        """Finds work for one actor after another, each until it dies."""
        failures = 0
        while not self._over:
            self._actors[index] = actor = self._class.remote(*self._beginning)
            try:
                ray.get(actor.is_there.remote())  # waits for as long as the cluster has no room
                failures = 0
                while (task := self._waiting.get()) is not None:
                    self._do(task, actor)
                return
            except RayError as error:
                failures += 1
                if failures == _TRIES and (task := self._waiting.get()) is not None:
                    task.future.set_exception(ActorDied(f"no actor can be made: {error}"))
                    failures = 0

    def _do(self, task: _Task, actor: Any) -> None:
        """Has a job done.

        Raises:
            RayError: The actor is dead; its job was told so, or is back in line if it had not begun.
        """
        try:
            ray.get(actor.is_there.remote())
        except RayError:
            self._waiting.put(task)
            raise
        self._at_work[task.slot] = actor
        try:
            said: Outcome | Exception = ray.get(actor.do.remote(task.job))
        except Exception as error:
            said = error
        del self._at_work[task.slot]  # before the slot is free to be used again
        if isinstance(said, Outcome):
            task.future.set_result(said)
        elif isinstance(said, RayTaskError) or not isinstance(said, RayError):
            task.future.set_exception(said)
        else:
            with contextlib.suppress(RayError):
                ray.kill(actor)  # one that only could not be reached must not go on
            task.future.set_exception(ActorDied(str(said)))
            raise said


class _Actor:
    def __init__(self, work: Callable[[Job], Outcome], folder: str, environment: dict[str, str]) -> None:
        self._work = work
        os.environ.update(environment)
        with contextlib.suppress(OSError):  # paths in a job may be relative; not every node need have the folder
            os.chdir(folder)

    def is_there(self) -> None:
        """Answers when the actor is made, and while it lives."""

    def do(self, job: Job) -> Outcome:
        return self._work(job)


def find_slots(settings: Devices) -> list[str]:
    """The device of each slot of the cluster at ``settings.address``: what fits on its nodes as they are now.

    Raises:
        ConfigError: The cluster cannot be reached, or has not what is asked for.
    """
    _connect(settings.address)
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()
    kind = settings.accelerator
    if kind == "auto":
        kind = "cuda" if any("GPU" in node for node in nodes) else "cpu"
    if kind not in ("cpu", "cuda"):
        raise ConfigError(
            "devices.accelerator", kind, "is nothing that Ray hands out", allowed=("auto", "cpu", "cuda")
        )
    per_device = settings.cells_per_gpu if kind == "cuda" else 1
    there = sum(_room(node, settings.threads, per_device if kind == "cuda" else None) for node in nodes)
    if not there:
        share = f" and 1/{per_device} of a GPU" if kind == "cuda" else ""
        words = f"has no room for a cell: no node of the cluster has {settings.threads} CPUs (devices.threads){share}"
        raise ConfigError("devices.address", settings.address, words)
    wanted = there if settings.count is None else settings.count * per_device
    if wanted > there:
        words = f"is more than the {there // per_device} that the cluster has room for"
        raise ConfigError("devices.count", settings.count, words)
    return ["cuda:0" if kind == "cuda" else "cpu"] * wanted


def _room(node: dict[str, float], threads: int, cells_per_gpu: int | None) -> int:
    """How many cells fit on a node; None for cells that need no GPU."""
    fit = int(node.get("CPU", 0)) // threads
    return fit if cells_per_gpu is None else min(fit, int(node.get("GPU", 0)) * cells_per_gpu)


def gpu_share(cells: int) -> float:
    """What of a GPU Ray is asked for: it counts in ten-thousandths, and rounded up the last cell would not fit."""
    return 10_000 // cells / 10_000


def _connect(address: str | None, **own: int) -> Any:
    quiet = {"log_to_driver": False, "logging_level": "error"}
    if address is None:
        return ray.init(address="local", **own, **quiet)  # type: ignore[arg-type]
    try:
        if address != "auto":
            host, _, port = address.rpartition(":")
            # Ray itself would try for minutes, and then end the process.
            socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
        return ray.init(address=address, **quiet)  # type: ignore[arg-type]
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            "devices.address", address, f"is no Ray cluster that can be reached: {error}; give host:port as "
            "`ray start --head` printed it, or auto on one of its machines"
        ) from None  # fmt: skip
