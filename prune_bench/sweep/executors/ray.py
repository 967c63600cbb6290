"""Long-lived Ray actors, on this machine or wherever a cluster has room."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from prune_bench.config import Devices
from prune_bench.errors import DeviceError, PruneBenchError
from prune_bench.sweep.executors.base import Job, Outcome, run_job
from prune_bench.sweep.executors.device_faults import DeviceFault, Fault
from prune_bench.sweep.executors.ray_cluster import connect, find_slots, gpu_share

__all__ = ["ActorDied", "RayExecutor", "find_slots", "gpu_share"]

_TICK = 0.05  # seconds that Ray is listened to before new jobs are looked at
_TRIES = 3  # to start an actor, for each slot, before it is given up


_FAULTS = 2  # in a row, after which what is placed on a GPU only keeps others from it


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

    Attributes:
        alone: Whether it has a whole GPU, for a job that must have no neighbours.
        place: Node and GPU, once it is there; empty without a GPU.
        is_plug: Whether it is there only so that Ray places nothing on a GPU that fails.
    """

    actor: Any
    answer: Any
    alone: bool = False
    place: str = ""
    is_plug: bool = False
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
        # Which GPU a slot's job goes to is Ray's choice: no slot's neighbours are known.
        self.places = [f"{name}@slot{i}" if name == "cuda:0" else name for i, name in enumerate(self.devices)]
        gpus = len({name for name in devices if name.startswith("cuda")})
        ours = connect(settings.address, num_cpus=len(devices) * settings.threads, num_gpus=gpus)
        self.dashboard = str(ours.dashboard_url or "")
        share = {"num_cpus": settings.threads, "num_gpus": gpu_share(settings.cells_per_gpu) if gpus else 0}
        self._class: Any = ray.remote(_Actor).options(**share)
        self._cells = settings.cells_per_gpu if gpus else 1
        self._alone_class: Any = ray.remote(_Actor).options(**share | {"num_gpus": 1})
        self._faults: Counter[str] = Counter()  # in a row, by place
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
        """Makes actors, as many as there are jobs for and at most one a slot; a lonely job's takes a GPU's slots."""
        plugs = sum(worker.is_plug for worker in self._workers)
        if plugs == len(self.devices) and self._waiting:
            raise DeviceError(f"no GPU of the cluster can be used: {', '.join(sorted(self._faults))}")
        for alone in (True, False):
            asked = sum(self._is_alone(task.job) is alone for task in list(self._waiting))
            asked += sum(worker.task is not None and worker.alone is alone for worker in self._workers)
            while asked > sum(w.alone is alone and not w.is_plug for w in self._workers) and self._has_room(alone):
                actor = (self._alone_class if alone else self._class).remote(*self._beginning)
                self._workers.append(_Worker(actor, actor.is_there.remote(), alone))

    def _has_room(self, alone: bool) -> bool:
        """Whether another actor may be made; one alone at a time, and it may wait for a GPU to become free."""
        lonely = sum(worker.alone for worker in self._workers)
        return not lonely if alone else len(self._workers) - lonely + lonely * self._cells < len(self.devices)

    def _is_alone(self, job: Job) -> bool:
        """Whether a job needs more of a GPU than its slot's share."""
        return self._cells > 1 and getattr(job, "alone", False)

    def _hand_out(self) -> None:
        cleared = self._to_clear()
        for worker in list(self._workers):
            if worker.answer is not None or worker.is_plug:
                continue
            task = next((task for task in list(self._waiting) if self._is_alone(task.job) is worker.alone), None)
            if worker.place in cleared or (worker.alone and task is None):
                _end(worker)
                self._workers.remove(worker)
            elif task is not None:
                self._waiting.remove(task)
                worker.task, worker.answer = task, worker.actor.is_there.remote()

    def _to_clear(self) -> set[str]:
        """The GPU with the fewest jobs, if a lonely one waits for a whole GPU and each has somebody on it."""
        if not any(worker.alone and not worker.is_there for worker in self._workers):
            return set()
        on = Counter(worker.place for worker in self._workers if worker.place and not worker.is_plug)
        plugs = len({worker.place for worker in self._workers if worker.is_plug})
        full = len(on) + plugs >= len(self.devices) // self._cells
        return {min(on, key=lambda place: on[place])} if on and full else set()

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
        if isinstance(said, str):
            worker.place, worker.is_plug = said, self._faults[said] >= _FAULTS
        if worker.is_plug:
            if task is not None:
                self._waiting.appendleft(task)
            worker.task = None
        elif task is not None and not worker.has_begun:
            worker.has_begun, worker.answer = True, worker.actor.do.remote(task.job)
        elif task is not None:
            worker.has_begun, worker.task = False, None
            self._note_health(worker, task.job, said)
            if isinstance(said, Exception):
                task.future.set_exception(said)
            else:
                task.future.set_result(said)

    def _note_health(self, worker: _Worker, job: Job, said: Any) -> None:
        """Counts what a GPU failed, and lets go of an actor that can use its own no more."""
        if isinstance(said, DeviceFault):
            self._faults[worker.place] += said.fault is not Fault.ASSERT  # that is a stage's
            _end(worker)
            self._workers.remove(worker)
        elif any(lane is not None and lane.needs_device for lane in getattr(job, "lanes", ())):
            del self._faults[worker.place]

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

    def is_there(self) -> str:
        """Answers when the actor is made, and while it lives, with its node and GPU; empty without one."""
        gpus = ",".join(str(gpu) for gpu in ray.get_gpu_ids())
        return f"node {ray.get_runtime_context().get_node_id()[:8]} GPU {gpus}" if gpus else ""

    def do(self, job: Job) -> Outcome | DeviceFault:
        """Does a job; a device's fault is an answer, because what is raised comes back as Ray's own exception."""
        try:
            return self._work(job)
        except DeviceFault as fault:
            return DeviceFault(str(fault), fault.fault)


def _end(worker: _Worker) -> None:
    with contextlib.suppress(RayError):
        ray.kill(worker.actor)
