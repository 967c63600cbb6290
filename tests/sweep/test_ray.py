"""Sweeps on Ray: the same bits, GPUs shared as asked, and nothing lost with a worker or a node."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor
from pathlib import Path

import pandas as pd
import psutil
import pytest

from prune_bench import cli
from prune_bench.config import Devices, Limits, make_experiment
from prune_bench.errors import ConfigError, PruneBenchError
from prune_bench.sweep import sweep
from prune_bench.sweep.executors import base
from prune_bench.sweep.runner import run_plan
from prune_bench.sweep.store import Store
from tests.sweep.faults import content
from tests.sweep.test_sweep import TINY, results, run

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

import prune_bench.sweep.executors.ray as ray_executor  # noqa: E402
from prune_bench.sweep.executors.ray import RayExecutor, find_slots, gpu_share  # noqa: E402

SMALL = ("prune_at=[init]", "train.pack=1", "methods={snip: {}, cts: {steps: 3, batch_size: 32}}")


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


OWN = """
import sys
from rich.console import Console
from prune_bench.config import make_experiment
from prune_bench.sweep.sweep import run_sweep
from tests.sweep.faults import content
from tests.sweep.test_sweep import TINY
sys.exit(run_sweep(make_experiment(TINY, sys.argv[1:]), Console()))
"""


def act(word):
    """What the actors of these tests do, in place of a job: as they are told."""
    if isinstance(word, Path):  # so that no actor takes two jobs
        (word / str(os.getpid())).touch()
        while len(list(word.iterdir())) < 4:
            time.sleep(0.01)
    if word == "raise":
        raise ValueError("a job's own fault")
    if word == "hang":
        time.sleep(1000)
    return base.Outcome(seconds=os.getpid(), failed={"gpu": base.Failure(reason=os.environ["CUDA_VISIBLE_DEVICES"])})


def slowly(job):
    time.sleep(0.2)  # so that a test can catch it in the act
    return base.run_job(job) if job else base.Outcome(seconds=0.0)


def at_work(executor):
    return [worker.actor for worker in executor._workers if worker.has_begun]


def said(future):
    outcome = future.result(timeout=60)
    return int(outcome.seconds), outcome.failed["gpu"].reason


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


@pytest.fixture(scope="class")
def executor(cluster):
    devices = Devices(address=cluster.address, cells_per_gpu=2)
    executor = RayExecutor(find_slots(devices), devices, act)
    yield executor
    executor.close()


@pytest.mark.slow
class TestGpusThatCellsShare:
    """Two GPUs, two cells on each."""

    def test_each_cell_sees_one_gpu_and_half_of_them_each(self, executor, tmp_path):
        assert executor.devices == ["cuda:0"] * 4
        answers = [said(future) for future in [executor.submit(tmp_path, slot) for slot in range(4)]]
        assert len({pid for pid, _ in answers}) == 4
        assert sorted(gpu for _, gpu in answers) == ["0", "0", "1", "1"]

    def test_an_actor_that_died_idle_costs_no_job_a_life(self, executor):
        dead = said(executor.submit("who", 0))[0]
        os.kill(dead, signal.SIGKILL)
        assert dead not in {said(future)[0] for future in [executor.submit("who", slot) for slot in range(4)]}

    def test_a_job_that_raises_is_no_death(self, executor):
        with pytest.raises(ValueError, match="own fault"):
            executor.submit("raise", 0).result(timeout=60)

    def test_a_killed_slot_ends_as_a_death_and_the_others_go_on(self, executor):
        hanging, other = executor.submit("hang", 0), executor.submit("hang", 1)
        while len(at_work(executor)) < 2:
            time.sleep(0.01)
        executor.kill(0)
        with pytest.raises(BrokenExecutor):
            hanging.result(timeout=60)
        assert not other.done()


@pytest.mark.parametrize("cells", range(1, 12))
def test_all_cells_of_a_gpu_fit_by_the_ten_thousandths_that_ray_counts(cells):
    assert 9_900 < round(gpu_share(cells) * 10_000) * cells <= 10_000


class Unreadable:
    """As ``prune_bench`` itself is on a node where it is not installed."""

    def __reduce__(self):
        return int, ("no number",)


def test_a_cluster_that_can_start_no_worker_ends_the_sweep_and_says_why(make, monkeypatch):
    monkeypatch.setattr(ray_executor, "_TRIES", 1)
    executor = make(Unreadable(), accelerator="cpu", count=1)
    with pytest.raises(PruneBenchError, match="no number"):
        executor.submit(None, 0).result(timeout=60)


def test_close_ends_the_jobs_and_leaves_no_ray_behind(make):
    executor = make(act)
    for slot in range(2):
        executor.submit("hang", slot)
    begun = time.monotonic()
    executor.close()
    executor.close()  # again is nothing
    assert time.monotonic() - begun < 5
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def inline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inline")
    assert run(folder, *SMALL)[0] == 0
    return folder


@pytest.mark.slow
def test_a_ray_of_its_own_gives_the_same_bits_as_inline(inline, tmp_path):
    # In a process of its own: Ray takes one cluster after another badly.
    words = [f"output={tmp_path}", *SMALL, "executor=ray", "devices.count=2"]
    done = subprocess.run([sys.executable, "-c", OWN, *words], capture_output=True, text=True, check=True)
    assert "Ray's dashboard" not in done.stdout  # the plain package has none
    pd.testing.assert_frame_equal(results(tmp_path), results(inline))


def node_of(actor):
    return ray._private.state.actors(actor._actor_id.hex())["Address"]["NodeID"]


@pytest.mark.slow
def test_a_node_and_a_worker_that_are_lost_in_mid_sweep_cost_nothing(cluster, make, inline, tmp_path):
    lost = cluster.add_node(num_cpus=3)
    executor = make(slowly, accelerator="cpu", threads=3)
    assert len(executor.devices) == 2  # one here and one there, whose successor will find no place
    for slot in range(2):
        executor.submit(None, slot)
    while not (executor._workers and all(worker.is_there for worker in executor._workers)):
        time.sleep(0.1)
    losses = []

    def lose(progress, finished):
        for actor in at_work(executor):
            if not losses and node_of(actor) == lost.node_id:
                cluster.remove_node(lost, allow_graceful=False)
                losses.append("node")
            elif losses == ["node"] and node_of(actor) != lost.node_id:
                ray.kill(actor)
                losses.append("worker")

    plan, store = sweep.prepare(make_experiment(TINY, [f"output={tmp_path}", *SMALL])), Store(tmp_path / "store")
    packs = [(key,) for key in plan.stages]
    progress = run_plan(plan.stages, packs, store, executor, threads=1, limits=Limits(), watch=lose)
    assert losses == ["node", "worker"]
    assert progress.failed == {}
    assert content(tmp_path) == content(inline)


def all_actors():
    return {process for process in psutil.Process().children(recursive=True) if "_Actor" in process.name()}


@pytest.fixture
def drive(tmp_path):
    """Starts a sweep in a process of its own; gives it and its two actors, which are at work."""
    before, drivers = all_actors(), []

    def drive(*settings):
        words = [sys.executable, "-m", "prune_bench.cli", "sweep", "experiments/smoke.yaml", f"output={tmp_path}"]
        words += [*settings, "executor=ray", "devices.count=2", "wandb.mode=disabled"]
        driver = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, start_new_session=True,
            # A shell that runs these tests in the background has Ctrl-C ignored, and that is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        drivers.append(driver)
        # A cluster's nodes are children of this process too.
        while len(all_actors() - before) < 2 or not list((tmp_path / "store").glob("ranking/*/*.safetensors")):
            assert driver.poll() is None
            time.sleep(0.1)
        actors = all_actors() - before
        assert len(actors) == 2
        return driver, actors

    yield drive
    for driver in drivers:
        if driver.poll() is None:
            for process in [*psutil.Process(driver.pid).children(recursive=True), driver]:
                process.kill()
            driver.wait()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "send"), [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill)])
def test_ctrl_c_and_sigterm_end_all_of_a_ray_of_its_own_within_seconds(drive, number, send):
    driver, _ = drive()
    family = psutil.Process(driver.pid).children(recursive=True)
    send(driver.pid, number)
    assert driver.wait(timeout=60) == 128 + number
    assert psutil.wait_procs(family, timeout=10)[1] == []


@pytest.mark.slow
def test_a_drivers_death_ends_its_actors_on_a_cluster(cluster, drive):
    driver, actors = drive(f"devices.address={cluster.address}", "devices.accelerator=cpu")
    driver.kill()
    driver.wait()
    assert psutil.wait_procs(actors, timeout=30)[1] == []


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


def test_nobody_imports_ray_who_did_not_ask_for_it():
    code = "import sys, prune_bench, prune_bench.cli, prune_bench.sweep.sweep; print('ray' in sys.modules)"
    words = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert words.strip() == "False"
