"""Runs a plan: hands ready stages to free slots until every cell has a result or a reason why not."""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass, field
from pathlib import Path

from prune_bench.sweep.executors import Executor, Job, Outcome
from prune_bench.sweep.stages import Plan, Stage
from prune_bench.sweep.store import Store

_LIVES = 3  # times a stage is tried when its worker dies; a stage that raises is not tried again


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
    plan: Plan,
    todo: dict[str, Stage],
    store: Store,
    executor: Executor,
    *,
    threads: int,
    watch: Callable[[Progress, str | None], None],
) -> Progress:
    """Computes ``todo``.

    Args:
        plan: What it belongs to.
        todo: Stages to compute, each after its inputs.
        store: Where artifacts go.
        executor: Where stages run.
        threads: CPU threads a slot.
        watch: Told after every change; its second argument is the key of a stage that was just computed, or None.
    """
    return _Run(todo, store, executor, threads, watch).run()


class _Run:
    def __init__(
        self, todo: dict[str, Stage], store: Store, executor: Executor, threads: int,
        watch: Callable[[Progress, str | None], None],
    ) -> None:  # fmt: skip
        self._todo, self._store, self._executor = todo, store, executor
        self._threads, self._watch = threads, watch
        self._progress = Progress(len(todo), sum(stage.cost for stage in todo.values()))
        self._waits = {key: {k for k in stage.inputs.values() if k in todo} for key, stage in todo.items()}
        self._users: dict[str, list[str]] = {key: [] for key in todo}
        for key, waits in self._waits.items():
            for needed in waits:
                self._users[needed].append(key)
        self._path = _remaining_cost(todo, self._users)
        self._ready = [(-self._path[key], i, key) for i, key in enumerate(todo) if not self._waits[key]]
        heapq.heapify(self._ready)
        self._lives: dict[str, int] = {}

    def run(self) -> Progress:
        free = list(range(len(self._executor.devices)))
        running: dict[Future[Outcome], tuple[str, int]] = {}
        self._watch(self._progress, None)
        while self._ready or running:
            while self._ready and free:
                _, _, key = heapq.heappop(self._ready)
                slot = free.pop(0)
                running[self._start(key, slot)] = (key, slot)
            self._watch(self._progress, None)
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                key, slot = running.pop(future)
                free.append(slot)
                self._settle(key, future)
        return self._progress

    def _start(self, key: str, slot: int) -> Future[Outcome]:
        stage = self._todo[key]
        self._progress.running[key] = stage.label
        device = self._executor.devices[slot]
        return self._executor.submit(
            Job(stage=stage, store=self._store.folder, device=device, threads=self._threads), slot
        )

    def _settle(self, key: str, future: Future[Outcome]) -> None:
        del self._progress.running[key]
        try:
            outcome = future.result()
        except BrokenExecutor:
            self._lives[key] = self._lives.get(key, 0) + 1
            if self._lives[key] < _LIVES:
                heapq.heappush(self._ready, (-self._path[key], len(self._lives), key))
                return
            outcome = Outcome(
                seconds=0.0, reason=f"its worker process died {_LIVES} times (out of memory, or killed)"
            )
        if outcome.reason:
            self._fail(key, outcome)
        else:
            self._succeed(key)

    def _succeed(self, key: str) -> None:
        self._progress.done.append(key)
        self._progress.cost_done += self._todo[key].cost
        failure_file(self._store, key).unlink(missing_ok=True)
        for user in self._users[key]:
            self._waits[user].discard(key)
            if not self._waits[user] and user not in self._progress.failed:
                heapq.heappush(self._ready, (-self._path[user], len(self._progress.done), user))
        self._watch(self._progress, key)

    def _fail(self, key: str, outcome: Outcome) -> None:
        file = failure_file(self._store, key)
        file.parent.mkdir(parents=True, exist_ok=True)
        label = self._todo[key].label
        file.write_text(json.dumps({"stage": label, "reason": outcome.reason, "trace": outcome.trace}, indent=1))
        self._progress.failed[key] = outcome.reason
        stack = list(self._users[key])
        while stack:
            user = stack.pop()
            self._progress.failed.setdefault(
                user, f"needs {self._todo[key].kind} {label!r}, which failed: {outcome.reason}"
            )
            stack.extend(self._users[user])
        self._watch(self._progress, None)


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
