"""Whose fault it is: a device's errors and full memory in all their words, and what a sweep makes of them."""

from concurrent.futures import BrokenExecutor
from dataclasses import replace

import pytest
import torch

from prune_bench.config import Limits
from prune_bench.errors import DeviceError
from prune_bench.sweep import compute
from prune_bench.sweep.executors import DeviceFault, Job, Outcome
from prune_bench.sweep.executors.base import run_job
from prune_bench.sweep.executors.device_faults import Fault, fault_of
from prune_bench.sweep.executors.inline import InlineExecutor
from prune_bench.sweep.executors.ranks import RankError, launch
from prune_bench.sweep.stages import Stage
from prune_bench.sweep.store import Store
from tests.sweep.test_runner import FULL, Told, fails, names, run, stage, well

STAGE = Stage("state", "a state", {"name": "nothing", "seed": 0})
TRAINING = Stage("training", "a training", {"name": "nothing", "seed": 0}, {"state": "state-gone"})
MISCONFIGURED = type("MisconfigurationException", (Exception,), {})
ARRAY_MEMORY = type("_ArrayMemoryError", (MemoryError,), {})
DIST = type("DistBackendError", (RuntimeError,), {})

MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    RuntimeError("HIP out of memory. Tried to allocate 1 GiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 5.05 GB, other allocations: 3.2 GB)"),
    DIST("NCCL error: unhandled cuda error, NCCL version 2.27\nLast error:\nCuda failure 2 'out of memory'"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:115] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
    ),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    RuntimeError("Caught OutOfMemoryError in DataLoader worker process 0.\nOriginal ...: CUDA out of memory"),
    OSError(12, "Cannot allocate memory"),
    MemoryError(),
    ARRAY_MEMORY("Unable to allocate 8 GiB for an array"),
    RuntimeError("std::bad_alloc"),
]
DEVICE = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.AcceleratorError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable"),
    RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
    RuntimeError("CUDA error: invalid device ordinal"),
    RuntimeError("CUDA error: no kernel image is available for execution on the device"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("CUDA driver initialization failed, you might not have a CUDA gpu."),
    RuntimeError("CUDA unknown error - this may be due to an incorrectly set up environment"),
    RuntimeError("Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before?"),
    RuntimeError("No CUDA GPUs are available"),
    RuntimeError("Found no NVIDIA driver on your system."),
    RuntimeError("The NVIDIA driver on your system is too old (found version 11040)."),
    AssertionError("Torch not compiled with CUDA enabled"),
    AssertionError("Invalid device id"),
    MISCONFIGURED("You requested gpu: [0]\n But your machine only has: []"),
    DIST("NCCL error in: ProcessGroupNCCL.cpp:1970, unhandled system error, NCCL version 2.27"),
    DIST("[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1)"),
]
STAGES = [
    ValueError("no such luck"),
    RuntimeError("shape '[2, 3]' is invalid for input of size 5"),
    RuntimeError(
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input"
    ),
    RuntimeError("CUDA error: invalid configuration argument"),
    RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
    KeyError("out of memory"),
    FileNotFoundError("its inputs are gone from the store: state"),
    TimeoutError("it took longer than limits.stage_seconds allows"),
]


@pytest.mark.parametrize(
    ("fault", "errors"),
    [
        (Fault.MEMORY, MEMORY),
        (Fault.DEVICE, DEVICE),
        (Fault.STAGE, STAGES),
        (Fault.ASSERT, [RuntimeError("CUDA error: device-side assert triggered")]),
    ],
)
def test_whose_fault_an_error_is(fault, errors):
    assert [str(error) for error in errors if fault_of(error) is not fault] == []
    in_a_rank = [RankError(type(error).__name__, str(error), "") for error in errors]
    assert [str(error) for error in in_a_rank if fault_of(error) is not fault] == []


def test_an_error_that_hides_another_is_judged_by_both():
    def wrapped(cause):
        try:
            try:
                raise cause
            except Exception as error:
                raise ValueError("the layer failed") from error
        except ValueError as error:
            return error

    assert fault_of(wrapped(RuntimeError("CUDA error: an illegal memory access was encountered"))) is Fault.DEVICE
    assert fault_of(wrapped(torch.OutOfMemoryError("CUDA out of memory"))) is Fault.MEMORY
    assert fault_of(wrapped(KeyError("x"))) is Fault.STAGE


def job(store, device="cpu"):
    return Job(
        lanes=(STAGE,), pack=(STAGE.key,), seeds=(0,), store=str(store), device=device, threads=1, limits=Limits()
    )


@pytest.mark.parametrize("error", [MEMORY[1], MEMORY[5], MEMORY[7]])
def test_full_memory_in_other_words_is_marked(tmp_path, monkeypatch, error):
    def full(*_):
        raise error

    monkeypatch.setattr(compute, "compute", full)
    assert run_job(job(tmp_path)).failed[STAGE.key].out_of_memory


def broken(*_):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_a_devices_error_is_no_failure_of_the_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(compute, "compute", broken)
    with pytest.raises(DeviceFault, match="illegal memory access"):
        run_job(job(tmp_path, "cuda:0"))
    with pytest.raises(DeviceError, match=r"illegal memory access.*state a state.*not recorded"):
        InlineExecutor("cuda:0").submit(job(tmp_path, "cuda:0"), 0).result()


def test_such_an_error_in_a_sweep_on_the_cpu_is_the_stages_which_asked_for_a_gpu_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(compute, "compute", broken)
    assert "illegal memory access" in run_job(job(tmp_path)).failed[STAGE.key].reason


def broken_in_a_rank(device):
    broken()


@pytest.mark.slow
def test_a_devices_error_in_a_rank_keeps_its_kind():
    with pytest.raises(RankError) as caught:
        launch(broken_in_a_rank, ["cpu", "cpu"])
    assert fault_of(caught.value) is Fault.DEVICE


@pytest.mark.slow
def test_gpus_that_are_not_there_are_no_fault_of_what_ranks_would_have_done(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    asked = replace(job(tmp_path, "cuda:0+cuda:1"), lanes=(TRAINING,), pack=(TRAINING.key,))
    with pytest.raises(DeviceFault) as caught:
        run_job(asked)
    assert caught.value.fault is Fault.START


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


GPUS = ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]


class Node(Told):
    """GPUs that take a turn each; those that are dead answer at once, with ``death`` or as killed."""

    def __init__(self, store, dead, death=BrokenExecutor, devices=GPUS):
        super().__init__(store, well, devices)
        self.dead, self.death, self.deaths = dead, death, []

    def submit(self, job, slot):
        self.answer = lambda job: self._answer(job, slot)
        return super().submit(job, slot)

    def _answer(self, job, slot):
        if self.devices[slot] not in self.dead:
            return well(job)
        self.deaths.append(self.devices[slot])
        return self.death()


def at_start():
    return DeviceFault("RuntimeError: CUDA error: uncorrectable ECC error encountered", Fault.START)


def in_work():
    return DeviceFault("AcceleratorError: CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize("death", [BrokenExecutor, at_start, in_work])
@pytest.mark.parametrize("devices", [GPUS, [gpu for gpu in GPUS for _ in range(3)], GPUS[:2]])
def test_a_dead_gpu_is_retired_and_costs_no_stage(store, death, devices):
    executor = Node(store, {"cuda:0"}, death, devices)
    progress = run([stage(str(i)) for i in range(60)], executor)
    assert progress.failed == {}
    assert len(progress.done) == 60
    assert executor.deaths == ["cuda:0"] * len(executor.deaths)
    assert len(executor.deaths) <= max(2, devices.count("cuda:0"))
    assert list(progress.retired) == ["cuda:0"]
    assert list(store.files.names("failures")) == []


@pytest.mark.parametrize("death", [at_start, in_work])
@pytest.mark.parametrize("stages", [1, 20])
def test_when_all_gpus_are_dead_the_sweep_ends_and_nothing_has_failed(store, death, stages):
    executor = Node(store, set(GPUS), death)
    if death is in_work and stages == 1:
        pytest.skip("one job that dies wherever it goes is at fault itself")
    with pytest.raises(DeviceError, match=r"no device is left.*cuda:2.*CUDA error.*same command"):
        run([stage(str(i)) for i in range(stages)], executor)
    assert list(store.files.names("failures")) == []
    assert list(store.files.names("claims")) == []


def test_a_single_job_finds_the_one_gpu_that_is_left(store):
    assert run([stage("a")], Node(store, set(GPUS[:3]), at_start)).failed == {}


def test_a_job_that_breaks_every_gpu_is_at_fault_itself_and_retires_none(store):
    def answer(job):
        return in_work() if names(job) == ("bad",) else well(job)

    stages = [stage("bad", cost=9.0), *(stage(str(i)) for i in range(20))]
    for devices in (GPUS, GPUS[:1]):
        progress = run(stages, Told(Store(store.location + devices[-1]), answer, devices))
        assert list(progress.failed) == [stages[0].key]
        assert "died 3 times: AcceleratorError: CUDA error: an illegal" in progress.failed[stages[0].key]
        assert progress.retired == {}
        assert len(progress.done) == 20


def test_an_assertion_on_the_device_is_its_lanes_fault_and_is_tried_no_more(store):
    word = "RuntimeError: CUDA error: device-side assert triggered"

    def answer(job):
        return DeviceFault(word, Fault.ASSERT) if "bad" in names(job) else well(job)

    bad, good = stage("bad"), stage("good")
    executor = Told(store, answer, GPUS)
    progress = run([bad, good], executor, packs=[(bad, good)])
    assert progress.failed == {bad.key: word}
    assert sorted(executor.jobs) == sorted([("bad", "good"), ("bad", "-"), ("-", "good")])
    assert progress.retired == {}


def test_a_success_between_two_deaths_keeps_the_device(store):
    turns = []

    def answer(job):
        turns.append(job)
        return in_work() if len(turns) % 3 == 1 and len(turns) < 20 else well(job)

    progress = run([stage(str(i)) for i in range(30)], Told(store, answer, GPUS[:1]))
    assert progress.failed == progress.retired == {}


class Ray(Told):
    """Slots that are not GPUs: a job's GPU is chosen by somebody else, and so are its neighbours."""

    def __init__(self, store, answer, slots):
        super().__init__(store, answer, ["cuda:0"] * slots)
        self.places = [f"cuda:0@slot{i}" for i in range(slots)]
        self.alone = []

    def submit(self, job, slot):
        self.alone.append(job.alone)
        return super().submit(job, slot)


def test_a_lonely_job_waits_for_no_slot_where_slots_are_no_gpus(store):
    asked = []

    def answer(job):
        if names(job) != ("big",):
            return None
        asked.append(job)
        return fails(job, FULL, "big") if len(asked) == 1 else well(job)

    executor = Ray(store, answer, 8)

    def watch(progress, finished):
        if finished == big.key:  # with seven at work beside it
            for slot, (future, _) in list(executor.going_on.items()):
                if not future.done():
                    executor.end(slot, Outcome(seconds=1.0))

    big = stage("big", cost=9.0)
    assert run([big, *(stage(str(i)) for i in range(7))], executor, watch=watch).failed == {}
    assert executor.alone == [False] * 8 + [True]
