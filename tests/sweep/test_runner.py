"""The runner against an executor that does as it is told: deaths, full memory, hangs, and other sweeps."""

import time
from concurrent.futures import BrokenExecutor, Future

import pytest

from prune_bench.config import Limits
from prune_bench.sweep import runner
from prune_bench.sweep.claims import Claims
from prune_bench.sweep.executors import Outcome
from prune_bench.sweep.failures import Failure, read_failure
from prune_bench.sweep.runner import run_plan
from prune_bench.sweep.stages import Stage
from prune_bench.sweep.store import Artifact, Store

FULL = Failure(reason="OutOfMemoryError: CUDA out of memory", out_of_memory=True)


class Told:
    """An executor: ``answer(job)`` is an outcome, an exception, or None for a job that goes on until it is ended."""

    def __init__(self, store, answer, devices=("cpu",)):
        self.store, self.answer, self.devices = store, answer, list(devices)
        self.jobs, self.going_on = [], {}

    def submit(self, job, slot):
        self.jobs.append(names(job))
        future, said = Future(), self.answer(job)
        self.going_on[slot] = (future, job)
        if isinstance(said, Exception):
            future.set_exception(said)
        elif said is not None:
            self.end(slot, said)
        return future

    def end(self, slot, outcome):
        future, job = self.going_on[slot]
        for lane in job.lanes:
            if lane is not None and lane.key not in outcome.failed:
                self.store.write(lane.key, Artifact({}))
        future.set_result(outcome)

    def kill(self, slot):
        self.going_on[slot][0].set_exception(BrokenExecutor())


def names(job):
    return tuple("-" if lane is None else lane.label for lane in job.lanes)


def well(job):
    return Outcome(seconds=1.0)


def fails(job, failure, *labels):
    return Outcome(seconds=1.0, failed={lane.key: failure for lane in job.lanes if lane and lane.label in labels})


def stage(label, kind="training", cost=1.0, **inputs):
    return Stage(kind, label, {"name": label, "seed": 0}, {role: needed.key for role, needed in inputs.items()}, cost)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def run(stages, executor, packs=None, limits=None, watch=lambda progress, finished: None):
    todo = {s.key: s for s in stages}
    keys = [tuple(s.key for s in pack) for pack in packs or [(s,) for s in stages]]
    limits = limits or Limits()
    return run_plan(todo, keys, executor.store, executor, threads=1, limits=limits, watch=watch)


def test_the_longest_chain_goes_first_and_every_stage_after_its_inputs(store):
    short, long = stage("short", cost=5.0), stage("first of long", "ranking", cost=1.0)
    rest = stage("rest of long", cost=10.0, ranking=long)
    executor = Told(store, well)
    run([short, long, rest], executor)
    assert executor.jobs == [("first of long",), ("rest of long",), ("short",)]


def test_what_raises_is_not_tried_again_and_costs_only_its_users(store):
    bad, good = stage("bad", "ranking"), stage("good", "ranking")
    users = [stage("user of bad", ranking=bad), stage("user of good", ranking=good)]
    executor = Told(store, lambda job: fails(job, Failure(reason="ValueError: no"), "bad"))
    progress = run([bad, good, *users], executor)
    assert sorted(executor.jobs) == [("bad",), ("good",), ("user of good",)]
    assert progress.failed == {
        bad.key: "ValueError: no",
        users[0].key: "needs ranking 'bad', which failed: ValueError: no",
    }
    assert read_failure(store, bad.key).reason == "ValueError: no"
    assert read_failure(store, users[0].key) is None


def test_a_recorded_failure_is_not_tried(store):
    bad = stage("bad")
    run([bad], Told(store, lambda job: fails(job, Failure(reason="no"), "bad")))
    again = Told(store, well)
    assert run([bad], again).failed == {bad.key: "no"}
    assert again.jobs == []


def test_a_death_is_no_fault_of_the_stage(store):
    a, died = stage("a"), []

    def answer(job):
        if len(died) < 2:
            died.append(job)
            return BrokenExecutor()
        return well(job)

    assert run([a], Told(store, answer)).failed == {}


def test_a_lane_that_kills_its_workers_costs_its_neighbours_nothing(store):
    a, b, c = stage("a"), stage("b"), stage("c")

    def answer(job):
        return BrokenExecutor() if "a" in names(job) else well(job)

    executor = Told(store, answer)
    progress = run([a, b, c], executor, packs=[(a, b, c)])
    assert list(progress.failed) == [a.key]
    assert "died 3 times" in progress.failed[a.key]
    assert executor.jobs[:3] == [("a", "b", "c")] * 3
    assert sorted(executor.jobs[3:]) == [("-", "-", "c"), ("-", "b", "-"), ("a", "-", "-")]


def test_full_memory_is_tried_once_more_with_the_device_to_itself(store):
    big, small, asked = stage("big", cost=2.0), stage("small"), []

    def answer(job):
        if names(job) == ("small",):
            return None
        asked.append(job)
        return fails(job, FULL, "big") if len(asked) == 1 else well(job)

    executor, looks = Told(store, answer, devices=["cuda:0", "cuda:0"]), []

    def watch(progress, finished):
        looks.append(list(executor.jobs))
        if len(looks) == 4:
            executor.end(1, Outcome(seconds=1.0))

    assert run([big, small], executor, watch=watch).failed == {}
    assert looks[3] == [("big",), ("small",)]  # while the small one was at work on the device
    assert executor.jobs == [("big",), ("small",), ("big",)]


def test_full_memory_when_alone_is_a_failure(store):
    big = stage("big")
    executor = Told(store, lambda job: fails(job, FULL, "big"), devices=["cuda:0"])
    assert run([big], executor).failed == {big.key: FULL.reason}
    assert executor.jobs == [("big",)] * 2


def test_a_stage_that_hangs_is_ended_and_the_rest_goes_on(store, monkeypatch):
    stuck, other, late, real = stage("stuck", cost=2.0), stage("other"), [0.0], time.monotonic
    monkeypatch.setattr(runner.time, "monotonic", lambda: real() + late[0])

    def watch(progress, finished):
        if executor.jobs:
            late[0] = 1000.0

    executor = Told(store, lambda job: None if names(job) == ("stuck",) else well(job))
    progress = run([stuck, other], executor, limits=Limits(stage_seconds=10.0), watch=watch)
    assert list(progress.failed) == [stuck.key]
    assert "limits.stage_seconds=10" in progress.failed[stuck.key]
    assert executor.jobs == [("stuck",), ("other",)]


def test_when_the_last_stages_hang_each_has_its_failure_and_the_sweep_its_end(store, monkeypatch):
    stages, late, real = [stage("one"), stage("two")], [0.0], time.monotonic
    monkeypatch.setattr(runner.time, "monotonic", lambda: real() + late[0])

    def watch(progress, finished):
        late[0] = 1000.0 * len(executor.jobs)

    executor = Told(store, lambda job: None, devices=["cuda:0"])
    progress = run(stages, executor, limits=Limits(stage_seconds=10.0), watch=watch)
    assert set(progress.failed) == {each.key for each in stages}
    assert list(progress.retired) == ["cuda:0"]


@pytest.mark.parametrize("ends_well", [True, False])
def test_what_another_sweep_computes_is_awaited_and_taken_over(store, ends_well):
    theirs, ours = stage("theirs", "ranking", cost=2.0), stage("ours")
    user, other, turns = stage("user", ranking=theirs), Claims(store.files), []
    other.take([theirs.key])

    def watch(progress, finished):
        turns.append(set(progress.elsewhere))
        if len(turns) == 4:
            if ends_well:
                store.write(theirs.key, Artifact({}))
            else:
                runner.write_failure(store, theirs.key, "theirs", Failure(reason="not here either"))
            other.release([theirs.key])

    executor = Told(store, well)
    progress = run([theirs, ours, user], executor, watch=watch)
    assert theirs.key in turns[1]
    assert executor.jobs == ([("ours",), ("user",)] if ends_well else [("ours",)])
    assert bool(progress.failed) != ends_well


def test_what_a_dead_sweep_left_is_computed(store):
    a, other = stage("a"), Claims(store.files)
    other.take([a.key])

    def watch(progress, finished):
        other.release([a.key])

    executor = Told(store, well)
    assert run([a], executor, watch=watch).failed == {}
    assert executor.jobs == [("a",)]


def test_a_store_that_takes_no_claims_fails_the_stages_with_the_reason(store, monkeypatch):
    def create(self, name, data):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(type(store.files), "create", create)
    a, executor = stage("a"), Told(store, well)
    progress = run([a], executor)
    assert "store cannot be written" in progress.failed[a.key]
    assert "Read-only" in progress.failed[a.key]
    assert executor.jobs == []


def test_no_claim_is_left_when_all_is_done(store):
    stages = [stage(str(i)) for i in range(5)]
    run(stages, Told(store, lambda job: fails(job, Failure(reason="no"), "3")))
    assert list(store.files.names("claims")) == []
