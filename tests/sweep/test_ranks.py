"""Stages done by two processes each: how they end, by themselves, by a fault or by a kill."""

import os
import random
import signal
import time

import psutil
import pytest
import torch

import prune_bench as pb
from prune_bench.config import Limits
from prune_bench.parallel import rank
from prune_bench.sweep.executors import Job
from prune_bench.sweep.executors.base import run_job
from prune_bench.sweep.executors.ranks import RankDied, launch
from prune_bench.sweep.stages import Stage
from tests.sweep import faults

pytestmark = pytest.mark.slow
SMALL = (
    "model={name: resnet8, width: 4}",
    "data={name: synthetic, samples: 64, test_samples: 32, image_size: 8, channels: 1, classes: 4}",
    "methods={snip: {}}", "densities=[0.4]", "variants=[original]", "prune_at=[init]", "seeds=[0]", "train.pack=1",
)  # fmt: skip
TOGETHER = (*SMALL, "devices.count=2", "devices.per_cell=2")

STAGE = Stage("training", "a training", {"name": "nothing", "seed": 0}, {"state": "state-gone"})


def job(store, **limits):
    return Job(
        lanes=(STAGE,), pack=(STAGE.key,), seeds=(0,), store=str(store), device="cpu+cpu", threads=1,
        limits=Limits(**limits),
    )  # fmt: skip


def fail_on_one(device, *job):
    if rank() == 1:
        raise ValueError("no such luck")
    torch.distributed.barrier()


def die_on_one(device):
    if rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    torch.distributed.barrier()


def rest(device, *job):
    time.sleep(60)


def ranks_under(pid):
    """Processes that do a stage together: workers' children, below a driver or a worker."""
    found = psutil.Process(pid).children(recursive=True)
    return [p for p in found if _is_spawned(p) and (p.ppid() != pid)]


def _is_spawned(process):
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def await_ranks(child):
    """The ranks of the stage that a sweep is at, once it is at one; none if it is through."""
    while child.is_alive():
        if len(found := ranks_under(child.pid)) == 2:
            return found
        time.sleep(0.05)
    return []


def test_a_rank_that_is_killed_is_a_death_whatever_that_does_to_the_others():
    with pytest.raises(RankDied, match="rank 1 of 2 ended with exit code -9"):
        launch(die_on_one, ["cpu", "cpu"])


def test_a_fault_on_one_rank_is_the_stages_failure_and_not_what_it_did_to_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr("prune_bench.sweep.executors.base._do", fail_on_one)
    failure = run_job(job(tmp_path)).failed[STAGE.key]
    assert failure.reason == "ValueError: no such luck"
    assert "in fail_on_one" in failure.trace
    assert not failure.out_of_memory
    assert "no such luck" in (tmp_path / failure.log).read_text()


def test_a_stage_that_overruns_its_limit_ends_its_ranks(tmp_path, monkeypatch):
    monkeypatch.setattr("prune_bench.sweep.executors.base._do", rest)
    assert "limits.stage_seconds" in run_job(job(tmp_path, stage_seconds=0.5)).failed[STAGE.key].reason
    assert [p for p in psutil.Process().children() if _is_spawned(p)] == []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together") / "run"
    child = faults.start(folder, *TOGETHER)
    child.join()
    assert child.exitcode == 0
    return folder


def test_a_sweep_whose_cells_take_two_devices_gives_the_rows_of_one_that_does_not(undisturbed, tmp_path):
    child = faults.start(tmp_path / "run", *SMALL)
    child.join()
    assert child.exitcode == 0
    one, two = (pb.load_results(folder).iloc[0] for folder in (tmp_path / "run", undisturbed))
    assert (one.ranks, two.ranks) == (1, 2)
    assert one.key == two.key
    assert one.kept == two.kept
    assert one["search/dense_epochs"] == two["search/dense_epochs"]
    assert one["test/loss"] == pytest.approx(two["test/loss"], rel=1e-3)
    logs = "".join(path.read_text() for path in (undisturbed / "store" / "logs").iterdir())
    assert "rank 0: " in logs


def test_kills_of_a_rank_its_worker_and_its_driver_end_all_ranks_and_change_no_bit(undisturbed, tmp_path):
    chance, folder = random.Random(0), tmp_path / "run"
    child = faults.start(folder, *TOGETHER, "executor=processes")
    for victim in ("rank", "worker", "driver"):
        found = await_ranks(child)
        pids = {"rank": found[1].pid, "worker": found[1].ppid(), "driver": child.pid}
        time.sleep(chance.uniform(0, 1.5))
        if found[1].is_running():
            os.kill(pids[victim], signal.SIGKILL)
        # Those that are still being started go as soon as they are.
        assert psutil.wait_procs(found, timeout=60)[1] == [], victim
    child.join()
    child = faults.start(folder, *TOGETHER)
    child.join()
    assert child.exitcode == 0
    assert faults.content(folder) == faults.content(undisturbed)
