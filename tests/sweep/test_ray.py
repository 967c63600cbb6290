"""Sweeps on Ray: the same bits, GPUs shared as asked, and nothing lost with a worker or a node."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor

import pandas as pd
import psutil
import pytest

from prune_bench import cli
from prune_bench.config import Devices, Limits, make_experiment
from prune_bench.errors import ConfigError
from prune_bench.sweep import sweep
from prune_bench.sweep.executors import base
from prune_bench.sweep.graph import missing_stages
from prune_bench.sweep.runner import run_plan
from prune_bench.sweep.store import Store
from tests.sweep.test_sweep import TINY, results, run

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

from prune_bench.sweep.executors.ray import RayExecutor, find_slots, gpu_share  # noqa: E402

SMALL = ("prune_at=[init]", "methods={snip: {}, cts: {steps: 3, batch_size: 32}}")


@pytest.fixture(scope="module")
def cluster():
    """Two nodes on this machine; the GPUs are there in name only."""
    made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 2})
    made.add_node(num_cpus=2)
    yield made
    made.shutdown()


@pytest.fixture
def make(cluster):
    """Makes executors on the cluster, closed in the end."""
    made = []

    def make(work=base.run_job, **settings):
        devices = Devices(address=cluster.address, **settings)
        made.append(RayExecutor(find_slots(devices), devices, work))
        return made[-1]

    yield make
    for executor in made:
        executor.close()


def who(job):
    """What an actor says of itself, as an outcome; slowly, so that no actor takes two jobs."""
    time.sleep(0.5)
    reason = f"{os.getpid()} {os.environ['CUDA_VISIBLE_DEVICES']}"
    return base.Outcome(seconds=0.0, failed={"said": base.Failure(reason=reason)})


def forever(job):
    time.sleep(1000)


def said(future):
    pid, gpu = future.result(timeout=60).failed["said"].reason.split()
    return int(pid), gpu


def test_slots_are_what_fits_on_each_node(cluster):
    def slots(**settings):
        return find_slots(Devices(address=cluster.address, **settings))

    assert slots() == ["cuda:0"] * 2
    assert slots(cells_per_gpu=2, count=1) == ["cuda:0"] * 2
    assert slots(cells_per_gpu=3) == ["cuda:0"] * 4  # the head has four CPUs
    assert slots(accelerator="cpu") == ["cpu"] * 6
    assert slots(accelerator="cpu", threads=3) == ["cpu"]
    with pytest.raises(ConfigError, match="more than the 6"):
        slots(accelerator="cpu", count=7)
    with pytest.raises(ConfigError, match="no room"):
        slots(accelerator="cpu", threads=5)
    assert not ray.is_initialized()


def test_cells_share_gpus_as_asked_and_each_sees_one(make):
    executor = make(who, cells_per_gpu=2)
    answers = [said(future) for future in [executor.submit(None, slot) for slot in range(4)]]
    assert len({pid for pid, _ in answers}) == 4
    assert sorted(gpu for _, gpu in answers) == ["0", "0", "1", "1"]
    assert executor.devices == ["cuda:0"] * 4


@pytest.mark.parametrize("cells", range(1, 12))
def test_all_cells_of_a_gpu_fit_by_the_ten_thousandths_that_ray_counts(cells):
    assert 9_900 < round(gpu_share(cells) * 10_000) * cells <= 10_000


def test_a_killed_slot_ends_as_a_death_and_is_made_anew(make):
    executor = make(forever, count=1)
    for _ in range(2):
        future = executor.submit(None, 0)
        while not executor._at_work:
            time.sleep(0.01)
        executor.kill(0)
        with pytest.raises(BrokenExecutor):
            future.result(timeout=60)


def test_actors_that_died_idle_cost_no_job_a_life(make):
    executor = make(who, count=2)
    pids = {said(future)[0] for future in [executor.submit(None, slot) for slot in range(2)]}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for future in [executor.submit(None, slot) for slot in range(2)]:
        assert said(future)[0] not in pids


def test_close_ends_the_jobs_and_leaves_no_ray_behind(make):
    executor = make(forever)
    for slot in range(2):
        executor.submit(None, slot)
    begun = time.monotonic()
    executor.close()
    assert time.monotonic() - begun < 5
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def inline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inline")
    assert run(folder, *SMALL)[0] == 0
    return results(folder)


def test_a_ray_of_its_own_gives_the_same_bits_as_inline(inline, tmp_path):
    code, words = run(tmp_path, *SMALL, "executor=ray", "devices.count=2")
    assert code == 0, words
    pd.testing.assert_frame_equal(results(tmp_path), inline)


def test_a_cluster_gives_the_same_bits_as_inline(cluster, inline, tmp_path):
    words = ("executor=ray", f"devices.address={cluster.address}", "devices.accelerator=cpu")
    assert run(tmp_path, *SMALL, *words)[0] == 0
    pd.testing.assert_frame_equal(results(tmp_path), inline)


def disturbed(executor, folder, disturb):
    """Runs the small plan and calls ``disturb`` with an actor that has work, until it answers true."""
    plan = sweep.prepare(make_experiment(TINY, [f"output={folder}", *SMALL]))
    store, over = Store(folder / "store"), []

    def watch(progress, finished):
        for actor in list(executor._at_work.values()) if not over else ():
            if disturb(actor):
                over.append(True)
                return

    todo = missing_stages(plan, store)
    progress = run_plan(todo, [(key,) for key in todo], store, executor, threads=1, limits=Limits(), watch=watch)
    assert over
    assert progress.failed == {}
    assert missing_stages(plan, store) == {}


def node_of(actor):
    return ray._private.state.actors(actor._actor_id.hex())["Address"]["NodeID"]


def test_a_killed_worker_is_replaced_and_its_stage_tried_again(make, tmp_path):
    killed = []
    executor = make(accelerator="cpu", count=2)
    disturbed(executor, tmp_path, lambda actor: not killed and (ray.kill(actor), killed.append(actor)))
    assert killed


def test_a_node_that_is_lost_in_mid_sweep_costs_nothing(cluster, make, tmp_path):
    lost = cluster.add_node(num_cpus=3)
    executor = make(accelerator="cpu")
    assert len(executor.devices) == 9

    def lose(actor):
        if node_of(actor) != lost.node_id:
            return False
        cluster.remove_node(lost, allow_graceful=False)
        return True

    disturbed(executor, tmp_path, lose)


@pytest.mark.slow
def test_the_drivers_death_ends_ray_and_its_actors(tmp_path):
    words = [sys.executable, "-m", "prune_bench.cli", "sweep", "experiments/smoke.yaml", f"output={tmp_path}"]
    driver = subprocess.Popen([*words, "executor=ray", "wandb.mode=disabled"], stdout=subprocess.DEVNULL)
    while not list((tmp_path / "store").glob("ranking/*/*.safetensors")):
        time.sleep(0.1)
    family = psutil.Process(driver.pid).children(recursive=True)
    assert any("_Actor" in " ".join(process.cmdline()) for process in family)
    driver.kill()
    driver.wait()
    assert psutil.wait_procs(family, timeout=30)[1] == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("executor=ray", "devices.address=127.0.0.1:1"), "no Ray cluster that can be reached"),
        (("executor=ray", "devices.address=nonsense"), "host:port"),
        (("devices.address=auto",), "executor=ray"),
    ],
)
def test_a_cluster_that_cannot_be_is_told_before_anything_runs(words, told, tmp_path):
    begun = time.monotonic()
    with pytest.raises(ConfigError, match=told):
        run(tmp_path / "run", *words)
    assert time.monotonic() - begun < 10
    assert not (tmp_path / "run").exists()


def test_without_ray_the_extra_to_install_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "prune_bench.sweep.executors.ray")
    monkeypatch.delattr("prune_bench.sweep.executors.ray")
    assert cli.main(["sweep", "experiments/smoke.yaml", "--dry-run", "--executor", "ray"]) == 2
    assert "pip install 'prune-bench[ray]'" in capsys.readouterr().err
