"""GPUs under Ray: a lonely job has a whole one while others go on, and one that fails is kept from everybody."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from prune_bench.config import Devices
from prune_bench.errors import DeviceError
from prune_bench.sweep.executors import DeviceFault, Outcome
from prune_bench.sweep.executors.device_faults import Fault
from prune_bench.sweep.failures import Failure
from prune_bench.sweep.stages import Stage

pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

from prune_bench.sweep.executors.ray import RayExecutor, find_slots  # noqa: E402

pytestmark = pytest.mark.slow
STAGE = Stage("training", "a training", {"name": "nothing", "seed": 0})


@dataclass(frozen=True, eq=False)
class Asked:
    """A job: it leaves its GPU's name in a file, and ends when another is there."""

    folder: Path
    name: str
    alone: bool = False
    lanes: tuple[Stage, ...] = (STAGE,)

    def gpu(self):
        while not (path := self.folder / f"{self.name}.gpu").exists():
            time.sleep(0.05)
        return path.read_text()

    def end(self):
        (self.folder / f"{self.name}.end").touch()


def stay(asked):
    gpu = os.environ["CUDA_VISIBLE_DEVICES"]
    aside = asked.folder / f"{asked.name}.aside"
    aside.write_text(gpu)
    aside.rename(asked.folder / f"{asked.name}.gpu")
    while not (asked.folder / f"{asked.name}.end").exists():
        time.sleep(0.02)
    return Outcome(seconds=0.0, failed={"gpu": Failure(reason=gpu)})


def fail_on_the_first(asked):
    gpu = os.environ["CUDA_VISIBLE_DEVICES"]
    if gpu == "0":
        raise DeviceFault("RuntimeError: CUDA error: uncorrectable ECC error encountered", Fault.START)
    return Outcome(seconds=0.0, failed={"gpu": Failure(reason=gpu)})


def fail_everywhere(asked):
    raise DeviceFault("RuntimeError: No CUDA GPUs are available", Fault.START)


def fail_an_assertion(asked):
    raise DeviceFault("RuntimeError: CUDA error: device-side assert triggered", Fault.ASSERT)


@pytest.fixture(scope="module")
def cluster():
    made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 2})
    yield made
    made.shutdown()


@pytest.fixture
def make(cluster):
    made = []

    def make(work, **settings):
        devices = Devices(address=cluster.address, **settings)
        made.append(RayExecutor(find_slots(devices), devices, work))
        return made[-1]

    yield make
    for executor in made:
        executor.close()


def test_a_lonely_job_has_a_whole_gpu_while_the_other_is_at_work(make, tmp_path):
    executor = make(stay, cells_per_gpu=2)
    assert executor.places == [f"cuda:0@slot{i}" for i in range(4)]
    jobs = [Asked(tmp_path, str(i)) for i in range(4)]
    futures = [executor.submit(job, slot) for slot, job in enumerate(jobs)]
    at = {job: job.gpu() for job in jobs}
    assert sorted(at.values()) == ["0", "0", "1", "1"]
    lonely = Asked(tmp_path, "lonely", alone=True)
    first, second = (job for job in jobs if at[job] == "0")
    other, third = (job for job in jobs if at[job] == "1")
    first.end()
    futures[jobs.index(first)].result(timeout=60)
    alone = executor.submit(lonely, jobs.index(first))
    other.end()
    time.sleep(6)  # longer than an actor takes to begin
    assert not list(tmp_path.glob("lonely*"))  # on each GPU somebody is at work
    second.end()
    assert lonely.gpu() == "0"
    assert not futures[jobs.index(third)].done()
    lonely.end()
    assert alone.result(timeout=60).failed["gpu"].reason == "0"
    late = [Asked(tmp_path, f"late {i}") for i in range(3)]
    rest = [executor.submit(job, jobs.index(before)) for job, before in zip(late, (first, second, other))]
    for job in [third, *late]:
        job.end()
    for future in [*futures, *rest]:
        future.result(timeout=60)


def test_a_gpu_that_fails_is_kept_from_everybody(make, tmp_path):
    executor, faults, gpus = make(fail_on_the_first), 0, []
    while len(gpus) < 8:
        futures = [executor.submit(Asked(tmp_path, "a"), slot) for slot in range(2)]
        for future in futures:
            try:
                gpus.append(future.result(timeout=60).failed["gpu"].reason)
            except DeviceFault as fault:
                assert fault.fault is Fault.START
                faults += 1
    assert set(gpus) == {"1"}
    assert faults <= 2


def test_an_assertion_in_a_kernel_takes_no_gpu_from_others(make, tmp_path):
    executor = make(fail_an_assertion)
    for _ in range(4):
        for slot in range(2):
            try:
                executor.submit(Asked(tmp_path, "a"), slot).result(timeout=60)
            except DeviceFault as fault:
                assert fault.fault is Fault.ASSERT
    assert not any(executor._faults.values())


def test_a_cluster_whose_gpus_all_fail_says_so(make, tmp_path):
    executor = make(fail_everywhere)
    with pytest.raises(DeviceError, match="no GPU of the cluster"):
        for _ in range(8):
            try:
                executor.submit(Asked(tmp_path, "a"), 0).result(timeout=60)
            except DeviceFault:
                continue
