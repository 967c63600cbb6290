"""Runs a plan: hands ready stages to free slots until every cell has a result or a reason why not."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass, field, replace

from prune_bench.config import Limits, Replay
from prune_bench.sweep.claims import Claims
from prune_bench.sweep.executors import Executor, Job, Outcome
from prune_bench.sweep.failures import Failure, failures_of, read_failure, write_failure
from prune_bench.sweep.graph import remaining_cost, users_of
from prune_bench.sweep.packs import OpenPack, Pack, open_packs
from prune_bench.sweep.stages import Stage
from prune_bench.sweep.store import Store

_LIVES = 3  # times a job is tried when its worker dies; a stage that raises is not tried again
_POLL = 0.5  # seconds between looks at what other sweeps are doing, and at stages that overrun


@dataclass
class Progress:
    """How far a run is; read by displays.

    Attributes:
        todo: Stages that had to be computed when the run began.
        slots: How many jobs can run at once.
        done: Seconds each finished stage took, by key; 0 for what another sweep computed.
        running: When each began, by key, on the clock of ``time.time``.
        elsewhere: Keys of stages that another sweep computes now.
        failed: Reasons by key, of stages that failed and of those that need one that did.
    """

    todo: dict[str, Stage]
    slots: int
    done: dict[str, float] = field(default_factory=dict)
    running: dict[str, float] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)


Watch = Callable[[Progress, str | None], None]


def run_plan(
    todo: dict[str, Stage], packs: list[Pack], store: Store, executor: Executor, *, threads: int, limits: Limits,
    watch: Watch, replay: Replay = "auto",
) -> Progress:  # fmt: skip
    """Computes ``todo``.

    Args:
        todo: Stages to compute, each after its inputs. Those with a failure on record are not tried.
        packs: Which of the plan's stages are computed side by side.
        store: Where artifacts go; other sweeps may be at work on it.
        executor: Where stages run.
        threads: CPU threads a slot.
        limits: How long a stage may take.
        watch: Told after every change, and twice a second; its second argument is the key of a stage that was just
            finished, or None.
        replay: Whether steps are recorded and replayed.
    """
    with Claims(store.files) as claims:
        opened = open_packs(packs, todo, store)
        return _Run(todo, opened, store, executor, claims, threads, limits, watch, replay).run()


@dataclass(frozen=True)
class _Running:
    pack: int
    slot: int
    keys: tuple[str, ...]
    deadline: float


class _Run:
    def __init__(
        self, todo: dict[str, Stage], packs: list[OpenPack], store: Store, executor: Executor, claims: Claims,
        threads: int, limits: Limits, watch: Watch, replay: Replay,
    ) -> None:  # fmt: skip
        self._todo, self._packs, self._store, self._executor = todo, packs, store, executor
        self._claims, self._threads, self._limits, self._watch = claims, threads, limits, watch
        self._replay: Replay = replay
        self._progress = Progress(todo, len(executor.devices))
        self._pack_of = {key: i for i, pack in enumerate(packs) for key in pack.wanted}
        self._waits = [{k for key in pack.wanted for k in todo[key].inputs.values() if k in todo} for pack in packs]
        self._users = users_of(todo)
        self._path = remaining_cost(todo, self._users)
        self._lives = [_LIVES for _ in packs]
        self._ready: list[tuple[float, int]] = []
        self._held: list[int] = []  # packs of which another sweep computes a lane
        self._alone: list[int] = []  # packs to be tried once more with a device to themselves
        self._was_alone: set[int] = set()
        self._free = list(range(len(executor.devices)))
        self._running: dict[Future[Outcome], _Running] = {}

    def run(self) -> Progress:
        for pack, waits in enumerate(self._waits):
            if not waits:
                self._offer(pack)
        for key, failure in failures_of(self._store, self._todo).items():
            self._fail(key, failure)
        while self._ready or self._held or self._alone or self._running:
            self._hand_out()
            self._watch(self._progress, None)
            for future in self._finished():
                self._settle(self._running.pop(future), future)
        return self._progress

    def _offer(self, pack: int) -> None:
        """Puts a pack in line whose inputs are all there; one whose every lane is settled is not."""
        if alive := self._alive(pack):
            heapq.heappush(self._ready, (-sum(self._path[key] for key in alive), pack))

    def _alive(self, pack: int) -> list[str]:
        settled = self._progress.failed.keys() | self._progress.done.keys()
        return [key for key in self._packs[pack].wanted if key not in settled]

    def _hand_out(self) -> None:
        held, self._held = self._held, []
        self._progress.elsewhere.clear()
        for pack in held:
            self._offer(pack)
        while self._ready and (slot := self._slot()) is not None:
            self._start(heapq.heappop(self._ready)[1], slot)
        while self._alone and (slot := self._slot(alone=True)) is not None:
            self._start(self._alone.pop(0), slot)

    def _slot(self, *, alone: bool = False) -> int | None:
        """A free slot on a device that no lonely job holds; if ``alone``, on one where nothing runs."""
        devices = self._executor.devices
        taken = {devices[r.slot] for r in self._running.values() if alone or r.pack in self._was_alone}
        return next((slot for slot in self._free if devices[slot] not in taken), None)

    def _start(self, pack: int, slot: int) -> None:
        """Starts what of a pack nobody has done or is doing; the rest of it is done, or awaited."""
        self._take_over(pack)
        alive = self._alive(pack)
        try:
            if not self._claims.take(alive):
                self._held.append(pack)
                self._progress.elsewhere.update(alive)
                return
        except OSError as error:
            for key in alive:
                self._fail(key, Failure(reason=f"the store cannot be written: {error}"))
            return
        self._take_over(pack)  # whoever held a claim until now may have finished
        if keys := tuple(self._alive(pack)):
            self._submit(pack, slot, keys)
        self._claims.release([key for key in alive if key not in keys])

    def _take_over(self, pack: int) -> None:
        """Settles what another sweep has finished or failed at meanwhile."""
        for key in self._alive(pack):
            if self._store.has(key):
                self._succeed(key, 0.0)
            elif failure := read_failure(self._store, key):
                self._fail(key, failure)

    def _submit(self, pack: int, slot: int, keys: tuple[str, ...]) -> None:
        lanes = tuple(self._todo[key] if key in keys else None for key in self._packs[pack].keys)
        limit = self._limits.stage_seconds
        job = Job(
            lanes=lanes, pack=self._packs[pack].keys, seeds=self._packs[pack].seeds,
            store=self._store.location, threads=self._threads,
            device=self._executor.devices[slot], limits=self._limits, replay=self._replay,
        )  # fmt: skip
        self._progress.running |= dict.fromkeys(keys, time.time())
        self._watch(self._progress, None)  # an executor of this process comes back when all is over
        # The worker minds the limit itself, lane by lane if it must; this ends one that hangs.
        last = time.monotonic() + (2 * len(keys) * limit + 30 if limit else float("inf"))
        self._free.remove(slot)
        self._running[self._executor.submit(job, slot)] = _Running(pack, slot, keys, last)

    def _finished(self) -> set[Future[Outcome]]:
        if not self._running:
            if self._held and not self._ready:
                time.sleep(_POLL)
            return set()
        finished, rest = wait(self._running, timeout=_POLL, return_when=FIRST_COMPLETED)
        for future in rest:
            if time.monotonic() > self._running[future].deadline:
                self._executor.kill(self._running[future].slot)
        return finished

    def _settle(self, job: _Running, future: Future[Outcome]) -> None:
        self._free.append(job.slot)
        for key in job.keys:
            del self._progress.running[key]
        try:
            outcome = future.result()
        except BrokenExecutor:
            self._bury(job)
        else:
            self._take_in(job, outcome)
        self._claims.release(job.keys)

    def _take_in(self, job: _Running, outcome: Outcome) -> None:
        lonely = job.pack in self._was_alone
        full = {key for key, failure in outcome.failed.items() if failure.out_of_memory and not lonely}
        if full:
            self._alone.append(job.pack)
            self._was_alone.add(job.pack)
        for key in job.keys:
            if key in outcome.failed and key not in full:
                self._fail(key, outcome.failed[key], record=True)
            elif key not in outcome.failed:
                self._succeed(key, outcome.seconds / len(job.keys))

    def _bury(self, job: _Running) -> None:
        """A worker died: its pack is tried again, in the end each lane by itself, so that one costs no other."""
        self._lives[job.pack] -= 1
        if time.monotonic() > job.deadline:
            words = f"it hung: stopped long after limits.stage_seconds={self._limits.stage_seconds:g}"
        elif self._lives[job.pack] > 0:
            self._offer(job.pack)
            return
        elif len(job.keys) > 1:
            self._split(job)
            return
        else:
            words = f"its worker process died {_LIVES} times (out of memory, or killed)"
        for key in job.keys:
            self._fail(key, Failure(reason=words), record=True)

    def _split(self, job: _Running) -> None:
        for key in job.keys:
            self._packs.append(replace(self._packs[job.pack], wanted=(key,)))
            self._lives.append(1)
            self._waits.append(set())
            self._pack_of[key] = len(self._packs) - 1
            self._offer(self._pack_of[key])

    def _succeed(self, key: str, seconds: float) -> None:
        self._progress.done[key] = seconds
        self._release(key)
        self._watch(self._progress, key)

    def _fail(self, key: str, failure: Failure, *, record: bool = False) -> None:
        label = self._todo[key].label
        if record:
            write_failure(self._store, key, label, failure)
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
            if key in self._waits[pack]:
                self._waits[pack].discard(key)
                if not self._waits[pack]:
                    self._offer(pack)
