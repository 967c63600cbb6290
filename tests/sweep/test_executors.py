"""Executors: which devices slots have, and jobs that take too long, too much memory, or their worker with them."""

import contextlib
import os
import time
from concurrent.futures import BrokenExecutor

import pytest
import torch

import prune_bench as pb
from prune_bench import cores
from prune_bench.config import Limits, make_experiment
from prune_bench.errors import ConfigError
from prune_bench.sweep import compute
from prune_bench.sweep.executors import Job, find_devices, make_executor
from prune_bench.sweep.executors.base import run_job
from prune_bench.sweep.executors.inline import InlineExecutor
from prune_bench.sweep.executors.processes import ProcessExecutor, own_device
from prune_bench.sweep.stages import Stage
from tests.sweep.test_sweep import TINY, run

SNIP = ("prune_at=[init]", "methods={snip: {}, magnitude: {}}", "variants=[original]", "train.pack=1")
STAGE = Stage("state", "a state", {"name": "nothing", "seed": 0})


def devices(*words):
    return find_devices(make_experiment(TINY, list(words)))


def job(store, **limits):
    return Job(
        lanes=(STAGE,), pack=(STAGE.key,), seeds=(0,), store=str(store), device="cpu", threads=1,
        limits=Limits(**limits),
    )  # fmt: skip


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_every_gpu_is_a_slot_or_several(two_gpus):
    assert devices() == ["cuda:0", "cuda:1"]
    assert devices("devices.count=1") == ["cuda:0"]
    assert sorted(devices("devices.cells_per_gpu=3")) == ["cuda:0"] * 3 + ["cuda:1"] * 3
    assert sorted(devices("devices.cells_per_gpu=2", "devices.count=1")) == ["cuda:0"] * 2
    with pytest.raises(ConfigError, match="more than the 2"):
        devices("devices.count=3")


def test_a_cell_takes_as_many_devices_as_it_is_told(two_gpus):
    assert devices("devices.per_cell=2") == ["cuda:0+cuda:1"]
    assert devices("devices.accelerator=cpu", "devices.count=4", "devices.per_cell=2") == ["cpu+cpu"] * 2
    assert devices("devices.accelerator=cpu", "devices.count=5", "devices.per_cell=2") == ["cpu+cpu"] * 2
    with pytest.raises(ConfigError, match=r"devices\.per_cell: 4.*more than the 2 devices.*lower it$"):
        devices("devices.per_cell=4")
    with pytest.raises(ConfigError, match=r"devices\.per_cell: 2.*more than the 1 devices.*raise devices\.count"):
        devices("devices.count=1", "devices.per_cell=2")


def test_cpu_slots_share_the_cores_by_their_threads(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8), raising=False)
    assert devices("devices.accelerator=cpu") == ["cpu"] * 8
    assert devices("devices.accelerator=cpu", "devices.threads=3") == ["cpu"] * 2
    assert devices("devices.accelerator=cpu", "devices.threads=16") == ["cpu"]
    assert devices("devices.accelerator=cpu", "devices.count=3") == ["cpu"] * 3


@pytest.mark.parametrize(("quota", "slots", "of_two_threads"), [(2.0, 2, 1), (2.9, 2, 1), (0.5, 1, 1), (16.0, 8, 4)])
def test_a_container_has_as_many_slots_as_its_quota_of_cores(monkeypatch, quota, slots, of_two_threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8), raising=False)
    monkeypatch.setattr(cores, "core_quota", lambda groups: quota)
    assert devices("devices.accelerator=cpu") == ["cpu"] * slots
    assert devices("devices.accelerator=cpu", "devices.threads=2") == ["cpu"] * of_two_threads
    assert devices("devices.accelerator=cpu", "devices.count=5") == ["cpu"] * 5  # who asks for more has it


def test_an_accelerator_that_is_not_there_is_told():
    with pytest.raises(ConfigError, match="mps"):
        devices("devices.accelerator=mps")


def test_auto_takes_processes_when_there_is_more_than_one_slot():
    experiment = make_experiment(TINY | {"executor": "auto"}, [])
    assert isinstance(make_executor(experiment, ["cpu"]), InlineExecutor)
    assert isinstance(make_executor(experiment, ["cpu", "cpu"]), ProcessExecutor)


@pytest.mark.parametrize(
    ("device", "visible", "seen"),
    [
        ("cpu", None, ("cpu", {})),
        ("cuda:3", None, ("cuda:0", {"CUDA_VISIBLE_DEVICES": "3"})),
        ("cuda:1", "4,6", ("cuda:0", {"CUDA_VISIBLE_DEVICES": "6"})),
        ("cuda:0", "GPU-5ebe9f43", ("cuda:0", {"CUDA_VISIBLE_DEVICES": "GPU-5ebe9f43"})),
        ("cpu+cpu", None, ("cpu+cpu", {})),
        ("cuda:2+cuda:3", None, ("cuda:0+cuda:1", {"CUDA_VISIBLE_DEVICES": "2,3"})),
        ("cuda:0+cuda:1", "4,6,7", ("cuda:0+cuda:1", {"CUDA_VISIBLE_DEVICES": "4,6"})),
    ],
)
def test_a_worker_sees_its_own_gpus_only(device, visible, seen):
    assert own_device(device, visible) == seen


def test_a_stage_that_overruns_its_limit_fails_and_the_others_go_on(tmp_path, monkeypatch):
    real = compute._HOW["ranking"]

    def slow(stages, inputs, *where):
        if stages[0].spec["method"] == "snip":
            time.sleep(60)
        return real(stages, inputs, *where)

    monkeypatch.setitem(compute._HOW, "ranking", slow)
    begun = time.monotonic()
    code, words = run(tmp_path, *SNIP, "limits.stage_seconds=2")
    assert time.monotonic() - begun < 30
    assert code == 1
    frame = pb.load_results(tmp_path)
    assert set(frame[frame.method == "snip"].status) == {"failed"}
    assert set(frame[frame.method == "magnitude"].status) == {"done"}
    assert "limits.stage_seconds" in words


def test_a_limit_holds_for_whoever_catches_every_exception_to_try_something_else(tmp_path, monkeypatch):
    def stubborn(*_):
        for _ in range(3):
            with contextlib.suppress(Exception):
                time.sleep(0.5)
        return []

    monkeypatch.setattr(compute, "compute", stubborn)
    begun = time.monotonic()
    (failure,) = run_job(job(tmp_path, stage_seconds=0.1)).failed.values()
    assert failure.reason.startswith("TimeoutError: it took longer than limits.stage_seconds allows (0.1 s")
    assert time.monotonic() - begun < 1


def test_full_memory_is_marked_as_such_and_has_a_traceback_and_a_log(tmp_path, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(compute, "compute", full)
    failure = run_job(job(tmp_path)).failed[STAGE.key]
    assert failure.out_of_memory
    assert "OutOfMemoryError: CUDA out of memory" in failure.reason
    assert "in full" in failure.trace
    assert "Traceback" in (tmp_path / failure.log).read_text()


def test_an_error_that_is_no_full_memory_is_not_marked(tmp_path, monkeypatch):
    def raising(*args):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(compute, "compute", raising)
    assert not run_job(job(tmp_path)).failed[STAGE.key].out_of_memory


def test_a_worker_that_is_killed_is_a_death_and_the_slot_has_a_new_one(tmp_path):
    """The job fails, because its stage is none; that it fails in the new worker shows that there is one."""
    executor = ProcessExecutor(["cpu"])
    try:
        first = executor.submit(job(tmp_path), 0)
        executor.kill(0)
        with pytest.raises(BrokenExecutor):
            first.result(timeout=60)
        assert list(executor.submit(job(tmp_path), 0).result(timeout=60).failed) == [STAGE.key]
    finally:
        executor.close()
