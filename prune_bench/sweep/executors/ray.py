"""Long-lived Ray actors, on this machine or wherever a cluster has room."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from prune_bench.config import Devices
from prune_bench.errors import ConfigError, PruneBenchError
from prune_bench.sweep.executors.base import Job, Outcome, run_job

_TICK = 0.05  # seconds that Ray is listened to before new jobs are looked at
_TRIES = 3  # to start an actor, for each slot, before it is given up
_PATIENCE = 5.0  # seconds for a cluster's port to open


class ActorDied(BrokenExecutor):
    """An actor, or the node that it was on, is gone."""


@dataclass(frozen=True)
class _Task:
    job: Job
    slot: int
    future: Future[Outcome] = field(default_factory=Future)


@dataclass(eq=False)
class _Worker:
    """An actor, what it was asked and has not answered yet, and the job it is for.

    A job is given only to an actor that has just answered: one that died idle, or is still waiting for a place,
    then costs no job a life.
    """

    actor: Any
    answer: Any
    is_there: bool = False
    task: _Task | None = None
    has_begun: bool = False


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
        self._waiting: deque[_Task] = deque()
        self._workers: list[_Worker] = []
        self._failed_starts = 0  # in a row
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(self, job: Job, slot: int) -> Future[Outcome]:
        """Puts the job in line for a free actor; the future raises :class:`ActorDied` if that dies."""
        task = _Task(job, slot)
        self._waiting.append(task)
        return task.future

    def kill(self, slot: int) -> None:
        """Ends the actor that does the slot's job; a job that no actor has begun is left alone."""
        with self._lock:
            for worker in self._workers:
                if worker.has_begun and worker.task is not None and worker.task.slot == slot:
                    ray.kill(worker.actor)

    def close(self) -> None:
        """Ends the actors at once, and the Ray that was started for them."""
        if self._over.is_set():
            return
        self._over.set()
        # Ray ends the process with a fault if it is shut down while a thread waits for it.
        self._thread.join()
        for worker in self._workers:
            _end(worker)
        ray.shutdown()

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                self._turn()
        except Exception as error:  # without this thread the sweep would wait for ever
            for task in [*self._waiting, *(w.task for w in self._workers if w.task is not None)]:
                task.future.set_exception(error)

    def _turn(self) -> None:
        with self._lock:
            self._hire()
            self._hand_out()
        asked = {worker.answer: worker for worker in self._workers if worker.answer is not None}
        if not asked:
            self._over.wait(_TICK)
            return
        answers, _ = ray.wait(list(asked), timeout=_TICK)
        with self._lock:
            for answer in answers:
                self._hear(asked[answer])

    def _hire(self) -> None:
        """Makes actors, as many as there are jobs for and at most one a slot."""
        busy = sum(worker.task is not None for worker in self._workers)
        while len(self._workers) < min(len(self.devices), busy + len(self._waiting)):
            actor = self._class.remote(*self._beginning)
            self._workers.append(_Worker(actor, actor.is_there.remote()))

    def _hand_out(self) -> None:
        for worker in self._workers:
            if self._waiting and worker.answer is None:
                worker.task, worker.answer = self._waiting.popleft(), worker.actor.is_there.remote()

    def _hear(self, worker: _Worker) -> None:
        """Takes in an answer: that an actor is there, what became of its job, or that it is gone."""
        task = worker.task
        try:
            said = ray.get(worker.answer)
        except RayError as error:
            if not (worker.has_begun and isinstance(error, RayTaskError)):
                self._bury(worker, error)
                return
            said = error
        self._failed_starts, worker.is_there, worker.answer = 0, True, None
        if task is not None and not worker.has_begun:
            worker.has_begun, worker.answer = True, worker.actor.do.remote(task.job)
        elif task is not None:
            worker.has_begun, worker.task = False, None
            if isinstance(said, Exception):
                task.future.set_exception(said)
            else:
                task.future.set_result(said)

    def _bury(self, worker: _Worker, error: RayError) -> None:
        """Lets go of an actor that is gone; its job is told so, or is back in line if it had not begun."""
        _end(worker)  # one that only could not be reached must not go on
        self._workers.remove(worker)
        if worker.task is not None and worker.has_begun:
            worker.task.future.set_exception(ActorDied(str(error)))
        elif worker.task is not None:
            self._waiting.appendleft(worker.task)
        if not worker.is_there:
            self._failed_starts += 1
        if self._failed_starts >= _TRIES * len(self.devices):
            raise PruneBenchError(f"Ray can start no worker: {error}")


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


def _end(worker: _Worker) -> None:
    with contextlib.suppress(RayError):
        ray.kill(worker.actor)


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
