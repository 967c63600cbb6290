"""Runs a plan: hands ready stages to free slots until every cell has a result or a reason why not."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass, field, replace

from prune_bench.config import Limits, Replay
from prune_bench.sweep.claims import Claims
from prune_bench.sweep.executors import Executor, Job, Outcome
from prune_bench.sweep.failures import Failure, failures_of, read_failure, write_failure
from prune_bench.sweep.graph import dependants, remaining_cost, users_of
from prune_bench.sweep.health import Health, failure_words
from prune_bench.sweep.packs import OpenPack, Pack, open_packs
from prune_bench.sweep.stages import Stage
from prune_bench.sweep.store import Store

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
        retired: Devices that are used no more because workers died on them, with the last reason.
    """

    todo: dict[str, Stage]
    slots: int
    done: dict[str, float] = field(default_factory=dict)
    running: dict[str, float] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    retired: dict[str, str] = field(default_factory=dict)


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

    Raises:
        DeviceError: Every device is retired; what is unfinished is not recorded as failed.
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
        self._claims, self._threads, self._limits, self._watch, self._replay = claims, threads, limits, watch, replay
        self._health = Health()
        self._progress = Progress(todo, len(executor.devices), retired=self._health.retired)
        self._pack_of = {key: i for i, pack in enumerate(packs) for key in pack.wanted}
        self._waits = [{k for key in pack.wanted for k in todo[key].inputs.values() if k in todo} for pack in packs]
        self._users = users_of(todo)
        self._path = remaining_cost(todo, self._users)
        self._ready: list[tuple[float, int]] = []
        self._held: list[int] = []  # packs of which another sweep computes a lane
        self._alone: list[int] = []  # packs to be tried once more with a device to themselves
        self._was_alone: set[int] = set()
        self._places: list[str] = getattr(executor, "places", executor.devices)
        self._free = list(range(len(executor.devices)))
        self._running: dict[Future[Outcome], _Running] = {}

    def run(self) -> Progress:
        for pack, waits in enumerate(self._waits):
            if not waits:
                self._offer(pack)
        for key, failure in failures_of(self._store, self._todo).items():
            self._fail(key, failure)
        while self._ready or self._held or self._alone or self._running:
            if self._health.retired and not self._free and not self._running:
                raise self._health.all_gone()
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
        while (choice := self._choose()) is not None:
            self._start(*choice)
        while self._alone and (slot := self._slot(alone=True)) is not None:
            self._start(self._alone.pop(0), slot)

    def _choose(self) -> tuple[int, int] | None:
        """The first pack in line and a free slot for it, rather on a device where it has not died."""
        for picky in (True, False) if self._free else ():
            for item in self._in_line():
                slot = self._slot(avoid=self._health.avoided(item[1]) if picky else set())
                if slot is not None:
                    self._ready.remove(item)
                    heapq.heapify(self._ready)
                    return item[1], slot
        return None

    def _in_line(self) -> Iterator[tuple[float, int]]:
        """The first pack, and where something has died the others too, in their order."""
        yield from self._ready[:1]
        if self._health.has_deaths:
            yield from sorted(self._ready)[1:]

    def _slot(self, *, alone: bool = False, avoid: Collection[str] = ()) -> int | None:
        """A free slot on a device that no lonely job holds; if ``alone``, on one where nothing runs."""
        places = self._places
        taken = {places[r.slot] for r in self._running.values() if alone or r.pack in self._was_alone}
        return next((slot for slot in self._free if places[slot] not in taken and places[slot] not in avoid), None)

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
        said, limit = self._packs[pack], self._limits.stage_seconds
        job = Job(
            lanes=tuple(self._todo[key] if key in keys else None for key in said.keys), pack=said.keys,
            seeds=said.seeds, store=self._store.location, threads=self._threads,
            device=self._executor.devices[slot], limits=self._limits, halved_from=said.halved_from,
            alone=pack in self._was_alone, replay=self._replay,
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
        except BrokenExecutor as death:
            self._bury(job, death)
        else:
            self._take_in(job, outcome)
        self._free = [slot for slot in self._free if self._places[slot] not in self._health.retired]
        self._progress.slots = max(1, sum(place not in self._health.retired for place in self._places))
        self._claims.release(job.keys)

    def _take_in(self, job: _Running, outcome: Outcome) -> None:
        if self._todo[job.keys[0]].needs_device:
            self._health.succeeded(self._places[job.slot])
        full = {key for key, failure in outcome.failed.items() if failure.out_of_memory}
        if full and len(self._packs[job.pack].keys) > 1:
            self._add(self._packs[job.pack].halves(full))
        elif full and job.pack not in self._was_alone:
            self._alone.append(job.pack)
            self._was_alone.add(job.pack)
        else:
            full = set()
        for key in job.keys:
            if key in outcome.failed and key not in full:
                self._fail(key, outcome.failed[key], record=True)
            elif key not in outcome.failed:
                self._succeed(key, outcome.seconds / len(job.keys))

    def _bury(self, job: _Running, death: BrokenExecutor) -> None:
        """A worker died: its pack is tried again, in the end each lane by itself, so that one costs no other."""
        self._health.died(job.pack, self._places[job.slot], death)
        if time.monotonic() > job.deadline:
            words = f"it hung: stopped long after limits.stage_seconds={self._limits.stage_seconds:g}"
        elif self._health.lives(job.pack) > 0:
            self._again(job.pack)
            return
        elif len(job.keys) > 1:
            for pack in self._add([replace(self._packs[job.pack], wanted=(key,)) for key in job.keys]):
                self._health.last_life(pack)
            return
        else:
            words = failure_words(death)
        for key in job.keys:
            self._fail(key, Failure(reason=words), record=True)

    def _again(self, pack: int) -> None:
        if pack in self._was_alone:
            self._alone.append(pack)
        else:
            self._offer(pack)

    def _add(self, packs: list[OpenPack]) -> list[int]:
        """Takes packs up that others have become, and puts them in line."""
        added = range(len(self._packs), len(self._packs) + len(packs))
        for pack, said in zip(added, packs):
            self._packs.append(said)
            self._waits.append(set())
            self._pack_of |= dict.fromkeys(said.wanted, pack)
            self._offer(pack)
        return list(added)

    def _succeed(self, key: str, seconds: float) -> None:
        self._progress.done[key] = seconds
        self._release(key)
        self._watch(self._progress, key)

    def _fail(self, key: str, failure: Failure, *, record: bool = False) -> None:
        label = self._todo[key].label
        if record:
            write_failure(self._store, key, label, failure)
        self._progress.failed[key] = failure.reason
        lost = dependants(key, self._users) - self._progress.failed.keys()
        words = f"needs {self._todo[key].kind} {label!r}, which failed: {failure.reason}"
        self._progress.failed |= dict.fromkeys(lost, words)
        for gone in (key, *lost):
            self._release(gone)
        self._watch(self._progress, None)

    def _release(self, key: str) -> None:
        """Tells the packs that wait for a stage that it is settled, for better or worse."""
        for pack in {self._pack_of[user] for user in self._users[key]}:
            if key in self._waits[pack]:
                self._waits[pack].discard(key)
                if not self._waits[pack]:
                    self._offer(pack)
