"""One stage of each kind by a job, and several devices together: the first that fails is told with its reason."""

import pytest

from prune_bench import parallel
from prune_bench.config import experiment_values
from prune_bench.doctor import ranks, stages, worker
from prune_bench.sweep import compute
from prune_bench.sweep.executors import DeviceFault
from prune_bench.sweep.executors.ranks import RankDied
from prune_bench.sweep.stages import KINDS
from tests.doctor.planted import subject, verdicts


def test_every_kind_of_stage_is_done(monkeypatch):
    done = []
    for kind, how in compute._HOW.items():
        monkeypatch.setitem(compute._HOW, kind, lambda *a, kind=kind, how=how: done.append(kind) or how(*a))
    assert verdicts(stages.look(subject())) == [("stages", "pass")]
    assert set(done) == set(KINDS)
    assert done.count("state") == 2  # fresh weights, and a dense training


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_that_fails_is_told_with_its_reason(monkeypatch, kind):
    def failing(*_):
        raise RuntimeError("CUDA error: the launch timed out")

    monkeypatch.setitem(compute._HOW, kind, failing)
    (line,) = stages.look(subject())
    assert line.verdict == "mend"
    assert f"a {kind} fails on cpu: RuntimeError: CUDA error: the launch timed out" in line.words
    assert "in failing" in line.values["trace"]


def test_a_device_that_fails_is_told_with_the_stage_it_failed(monkeypatch):
    def dies(job):
        raise DeviceFault("AcceleratorError: CUDA error: unspecified launch failure")

    monkeypatch.setattr(stages, "run_job", dies)
    request = {"name": "stages", "function": "prune_bench.doctor.stages:look", "device": "cuda:0", "known": {}}
    answers = worker.answer(request | {"experiment": experiment_values(subject().experiment)})
    line = next(answers)
    assert (line.name, line.verdict) == ("stages", "mend")
    assert "in a state on cuda:0: AcceleratorError: CUDA error: unspecified launch failure" in line.words
    with pytest.raises(DeviceFault):
        next(answers)


@pytest.mark.slow
def test_two_processes_add_up_and_train_together():
    assert verdicts(ranks.look(subject(device="cpu+cpu"))) == [("ranks", "pass"), ("ranks", "pass")]


def test_devices_that_cannot_add_up_are_a_mend(monkeypatch):
    def dies(*_):
        raise RankDied("rank 1 of 2 ended with exit code -9")

    monkeypatch.setattr(ranks, "launch", dies)
    (line,) = ranks.look(subject(device="cpu+cpu"))
    assert line.verdict == "mend"
    assert "rank 1 of 2" in line.words
    assert "devices.per_cell" in line.words


def test_a_wrong_sum_is_found(monkeypatch):
    ranks.add_up("cpu")
    monkeypatch.setattr(parallel, "sum_", lambda tensors: tensors[0].add_(1))
    with pytest.raises(ArithmeticError):
        ranks.add_up("cpu")
