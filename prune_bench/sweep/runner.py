"""Runs a plan: hands ready stages to free slots until every cell has a result or a reason why not."""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass, field
from pathlib import Path

from prune_bench.sweep.executors import Executor, Failure, Job, Outcome
from prune_bench.sweep.packs import OpenPack, Pack, open_packs
from prune_bench.sweep.stages import Plan, Stage
from prune_bench.sweep.store import Store

_LIVES = 3  # times a job is tried when its worker dies; a stage that raises is not tried again


@dataclass
class Progress:
    """How far a run is; read by displays.

    Attributes:
        todo: Stages that had to be computed when the run began.
        done: Keys of stages computed since.
        running: Labels by key.
        failed: Reasons by key, of stages that failed and of those that need one that did.
        cost_todo: Expected cost of all of ``todo``, in dense epochs.
        cost_done: Of what is done.
    """

    todo: int
    cost_todo: float
    done: list[str] = field(default_factory=list)
    running: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    cost_done: float = 0.0


def missing_stages(plan: Plan, store: Store) -> dict[str, Stage]:
    """The stages that must be computed: those whose artifact is absent or damaged and that a result still needs."""
    needed: dict[str, Stage] = {}
    stack = list(plan.cells.values())
    seen = set(stack)
    while stack:
        key = stack.pop()
        if store.read(key) is not None:
            continue
        needed[key] = plan.stages[key]
        fresh = [k for k in plan.stages[key].inputs.values() if k not in seen]
        seen.update(fresh)
        stack.extend(fresh)
    return {key: stage for key, stage in plan.stages.items() if key in needed}


def run_plan(
    todo: dict[str, Stage],
    packs: list[Pack],
    store: Store,
    executor: Executor,
    *,
    threads: int,
    checkpoint_seconds: float,
    watch: Callable[[Progress, str | None], None],
) -> Progress:
    """Computes ``todo``.

    Args:
        todo: Stages to compute, each after its inputs.
        packs: Which of the plan's stages are computed side by side.
        store: Where artifacts go.
        executor: Where stages run.
        threads: CPU threads a slot.
        checkpoint_seconds: Of a training, between two checkpoints.
        watch: Told after every change; its second argument is the key of a stage that was just computed, or None.
    """
    return _Run(todo, open_packs(packs, todo, store), store, executor, threads, checkpoint_seconds, watch).run()


class _Run:
    def __init__(
        self, todo: dict[str, Stage], packs: list[OpenPack], store: Store, executor: Executor, threads: int,
        checkpoint_seconds: float, watch: Callable[[Progress, str | None], None],
    ) -> None:  # fmt: skip
        self._todo, self._packs, self._store, self._executor = todo, packs, store, executor
        self._threads, self._checkpoint_seconds, self._watch = threads, checkpoint_seconds, watch
        self._progress = Progress(len(todo), sum(stage.cost for stage in todo.values()))
        self._pack_of = {key: i for i, pack in enumerate(packs) for key in pack.wanted}
        self._waits = [{k for key in pack.wanted for k in todo[key].inputs.values() if k in todo} for pack in packs]
        self._users: dict[str, list[str]] = {key: [] for key in todo}
        for key, stage in todo.items():
            for needed in dict.fromkeys(stage.inputs.values()):
                if needed in todo:
                    self._users[needed].append(key)
        self._path = _remaining_cost(todo, self._users)
        self._ready: list[tuple[float, int]] = []
        for pack, waits in enumerate(self._waits):
            if not waits:
                self._offer(pack)
        self._lives = [_LIVES for _ in packs]

    def run(self) -> Progress:
        free = list(range(len(self._executor.devices)))
        running: dict[Future[Outcome], tuple[int, int]] = {}
        self._watch(self._progress, None)
        while self._ready or running:
            while self._ready and free:
                _, pack = heapq.heappop(self._ready)
                slot = free.pop(0)
                running[self._start(pack, slot)] = (pack, slot)
            self._watch(self._progress, None)
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                pack, slot = running.pop(future)
                free.append(slot)
                self._settle(pack, future)
        return self._progress

    def _offer(self, pack: int) -> None:
        """Puts a pack in line whose inputs are all there; one whose every lane has failed is not."""
        if alive := self._alive(pack):
            heapq.heappush(self._ready, (-sum(self._path[key] for key in alive), pack))

    def _alive(self, pack: int) -> list[str]:
        return [key for key in self._packs[pack].wanted if key not in self._progress.failed]

    def _start(self, pack: int, slot: int) -> Future[Outcome]:
        alive, keys = self._alive(pack), self._packs[pack].keys
        self._progress.running |= {key: self._todo[key].label for key in alive}
        lanes = tuple(self._todo[key] if key in alive else None for key in keys)
        device = self._executor.devices[slot]
        job = Job(
            lanes=lanes, pack=keys, store=self._store.folder, device=device,
            threads=self._threads, checkpoint_seconds=self._checkpoint_seconds,
        )  # fmt: skip
        return self._executor.submit(job, slot)

    def _settle(self, pack: int, future: Future[Outcome]) -> None:
        alive = self._alive(pack)
        for key in alive:
            del self._progress.running[key]
        try:
            failed = future.result().failed
        except BrokenExecutor:
            self._lives[pack] -= 1
            if self._lives[pack]:
                self._offer(pack)
                return
            failed = dict.fromkeys(
                alive, Failure(f"its worker process died {_LIVES} times (out of memory, or killed)")
            )
        for key in alive:
            if key in failed:
                self._fail(key, failed[key])
            else:
                self._succeed(key)

    def _succeed(self, key: str) -> None:
        self._progress.done.append(key)
        self._progress.cost_done += self._todo[key].cost
        failure_file(self._store, key).unlink(missing_ok=True)
        self._release(key)
        self._watch(self._progress, key)

    def _fail(self, key: str, failure: Failure) -> None:
        file = failure_file(self._store, key)
        file.parent.mkdir(parents=True, exist_ok=True)
        label = self._todo[key].label
        file.write_text(json.dumps({"stage": label, "reason": failure.reason, "trace": failure.trace}, indent=1))
        self._progress.failed[key] = failure.reason
        lost, stack = [key], list(self._users[key])
        while stack:
            user = stack.pop()
            if user not in self._progress.failed:
                words = f"needs {self._todo[key].kind} {label!r}, which failed: {failure.reason}"
                self._progress.failed[user] = words
                lost.append(user)
                stack.extend(self._users[user])
        for gone in lost:
            self._release(gone)
        self._watch(self._progress, None)

    def _release(self, key: str) -> None:
        """Tells the packs that wait for a stage that it is settled, for better or worse."""
        for pack in {self._pack_of[user] for user in self._users[key]}:
            self._waits[pack].discard(key)
            if not self._waits[pack]:
                self._offer(pack)


def failure_file(store: Store, key: str) -> Path:
    """Where a failed stage's reason and traceback are kept."""
    return store.folder / "failures" / f"{key}.json"


def _remaining_cost(todo: dict[str, Stage], users: dict[str, list[str]]) -> dict[str, float]:
    """The dearest path from each stage to an end: the longest chains must start first."""
    path: dict[str, float] = {}
    for key in reversed(list(todo)):
        path[key] = todo[key].cost + max((path[user] for user in users[key]), default=0.0)
    # What needs only to be put together goes first: a finished cell must not wait for the rest of the grid.
    return {key: math.inf if todo[key].kind == "result" else cost for key, cost in path.items()}
