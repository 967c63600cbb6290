"""Devices: which GPUs a sweep finds, what each worker sees of them, and what is told when they cannot be used."""

import os
from pathlib import Path

import pytest
import torch

from prune_bench.config import Limits, make_experiment
from prune_bench.errors import ConfigError, DeviceError
from prune_bench.sweep import compute, sweep
from prune_bench.sweep.executors import Job, devices, find_devices, make_executor, processes
from prune_bench.sweep.executors.base import run_job
from prune_bench.sweep.executors.inline import InlineExecutor
from prune_bench.sweep.executors.processes import ProcessExecutor, own_device
from prune_bench.sweep.stages import Stage
from tests.sweep.faults import content
from tests.sweep.pretended import see
from tests.sweep.test_sweep import TINY, run

SMALL = ("prune_at=[init]", "methods={snip: {}}", "densities=[0.5]", "variants=[original]", "train.pack=1")
TRAINING = Stage("training", "a training", {"name": "nothing", "seed": 0}, {"state": "state-gone"})


def found(*words):
    return find_devices(make_experiment(TINY, list(words)))


def job(store, stage=TRAINING, device="cuda:0"):
    return Job(
        lanes=(stage,), pack=(stage.key,), seeds=(0,), store=str(store), device=device, threads=1, limits=Limits()
    )


@pytest.fixture
def node(monkeypatch):
    """``node(count, visible)``: a machine with so many GPUs that CUDA can use, and the driver's environment."""

    def node(count, visible=None):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return node


@pytest.mark.parametrize(
    ("count", "visible", "words", "seen"),
    [
        (2, None, (), ["0", "1"]),
        (4, "0,1,2,3", (), ["0", "1", "2", "3"]),
        (2, "2,3", (), ["2", "3"]),
        (3, "GPU-a,GPU-b,GPU-c", (), ["GPU-a", "GPU-b", "GPU-c"]),
        (2, "0, 1", (), ["0", "1"]),
        (2, "0,1,-1,3", (), ["0", "1"]),
        (1, "MIG-a,MIG-b,MIG-c", (), ["MIG-a", "MIG-b", "MIG-c"]),
        (1, "MIG-GPU-5e/1/0, MIG-GPU-5e/2/0", (), ["MIG-GPU-5e/1/0", "MIG-GPU-5e/2/0"]),
        (1, "MIG-a,MIG-b", ("devices.count=1",), ["MIG-a"]),
        (2, None, ("devices.cells_per_gpu=3",), ["0", "1"] * 3),
        (8, None, ("devices.count=3",), ["0", "1", "2"]),
        (5, "3,4,5,6,7", ("devices.per_cell=2",), ["3,4", "5,6"]),
    ],
)
def test_each_slots_worker_is_shown_its_own_gpus(node, count, visible, words, seen):
    node(count, visible)
    shown = [own_device(device, visible) for device in found(*words)]
    assert [environment["CUDA_VISIBLE_DEVICES"] for _, environment in shown] == seen
    assert all(
        name == "+".join(f"cuda:{i}" for i in range(len(gpus.split(",")))) for (name, _), gpus in zip(shown, seen)
    )


def test_spawned_workers_find_their_gpu_in_their_environment(node, monkeypatch, tmp_path):
    node(3, "GPU-a, GPU-b,GPU-c")
    monkeypatch.setattr(processes, "run_job", see)
    executor = ProcessExecutor(["cuda:0", "cuda:2", "cuda:0"])
    try:
        futures = [executor.submit(job(tmp_path), slot) for slot in range(3)]
        told = [future.result(timeout=60).failed["worker"].reason for future in futures]
    finally:
        executor.close()
    assert told == ["cuda:0 of GPU-a", "cuda:0 of GPU-c", "cuda:0 of GPU-a"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a, GPU-b,GPU-c"


@pytest.fixture
def traces(monkeypatch):
    """Has a driver's traces be these files, whatever this machine has."""

    def traces(*names):
        real = Path.exists
        ours = {name for names in devices._NVIDIA for name in names}
        monkeypatch.setattr(Path, "exists", lambda self: str(self) in names if str(self) in ours else real(self))

    return traces


@pytest.mark.parametrize(
    "there",
    [("/proc/driver/nvidia",), ("/dev/nvidia0",), ("/dev/nvidiactl",), ("/dev/dxg", "/usr/lib/wsl/lib/libcuda.so.1")],
)
@pytest.mark.parametrize("accelerator", ["auto", "cuda"])
def test_a_gpu_that_cannot_be_used_is_told_and_never_passed_over(node, traces, monkeypatch, there, accelerator):
    def init():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12040).")

    node(0)
    traces(*there)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    words = r"devices\.accelerator: .*driver on your system is too old.*CUDA 13\.0.*devices\.accelerator=cpu"
    with pytest.raises(ConfigError, match=words):
        found(f"devices.accelerator={accelerator}")
    assert set(found("devices.accelerator=cpu")) == {"cpu"}


@pytest.mark.parametrize(("visible", "cuda", "mend"), [("1,1", "13.0", "'1,1'"), (None, None, "whl/cu")])
def test_the_mend_fits_the_cause(node, traces, monkeypatch, visible, cuda, mend):
    def init():
        raise AssertionError("Torch not compiled with CUDA enabled") if cuda is None else RuntimeError("No CUDA GPUs")

    node(0, visible)
    traces("/dev/nvidia0")
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(ConfigError, match=mend):
        found()


@pytest.mark.parametrize("visible", ["", "-1", " -1", "NoDevFiles"])
def test_who_hides_all_gpus_wants_the_cpu(node, traces, visible):
    node(0, visible)
    traces("/dev/nvidia0", "/proc/driver/nvidia")
    assert set(found()) == {"cpu"}


@pytest.mark.parametrize("there", [(), ("/dev/dxg",)])  # WSL has that without an NVIDIA driver too
def test_a_machine_without_an_nvidia_gpu_is_the_cpus(node, traces, there):
    node(0)
    traces(*there)
    assert set(found()) == {"cpu"}


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("train.precision=bfloat16",), r"train\.precision"),
        (("methods.cts.precision=bfloat16",), r"methods\.cts\.pre"),
    ],
)
def test_bfloat16_is_not_asked_of_a_gpu_that_has_none(node, monkeypatch, words, key):
    node(2)
    monkeypatch.setattr(devices, "gpus_without_bfloat16", lambda: {1: "Tesla V100"})
    with pytest.raises(ConfigError, match=rf"{key}.*cuda:1 \(Tesla V100\)"):
        found(*words)
    assert found(*words, "devices.count=1") == ["cuda:0"]  # the other one is not used
    assert set(found(*words, "devices.accelerator=cpu")) == {"cpu"}


def test_gpus_are_asked_for_bfloat16_in_another_process_and_only_if_need_be(node, monkeypatch):
    node(1)
    monkeypatch.setattr(devices.subprocess, "run", lambda *_, **__: pytest.fail("asked"))
    assert found() == ["cuda:0"]
    monkeypatch.undo()
    assert not torch.cuda.is_initialized()
    if not torch.cuda.is_available():
        assert devices.gpus_without_bfloat16() == {}


@pytest.fixture
def gpu(monkeypatch):
    """CUDA as it is before it is initialised: statistics are refused. Work on it is the CPU's."""
    calls, ones = [], torch.ones

    def reset(device):
        if "init" not in calls:
            raise RuntimeError("Invalid device argument ")
        calls.append("reset")

    monkeypatch.setattr(torch.cuda, "init", lambda: calls.append("init"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch, "ones", lambda *size, device=None, **how: ones(*size, **how))
    return calls


def test_a_gpu_is_opened_before_its_memory_is_counted(tmp_path, gpu):
    failure = run_job(job(tmp_path)).failed[TRAINING.key]
    assert gpu == ["init", "reset"]
    assert "inputs are gone" in failure.reason  # and so the stage had begun


@pytest.mark.parametrize("kind", ["state", "ticket", "result"])
def test_what_needs_no_gpu_opens_none(tmp_path, gpu, monkeypatch, kind):
    places = []
    monkeypatch.setattr(compute, "compute", lambda stages, inputs, device, checkpoint: places.append(device) or [])
    assert run_job(job(tmp_path, Stage(kind, "one", {"seed": 0}))).failed == {}
    assert gpu == []
    assert places == [torch.device("cpu")]


def test_a_single_gpu_has_a_worker_that_can_be_replaced():
    experiment = make_experiment(TINY | {"executor": "auto"}, [])
    assert isinstance(make_executor(experiment, ["cuda:0"]), ProcessExecutor)
    assert isinstance(make_executor(experiment, ["cpu"]), InlineExecutor)


@pytest.mark.parametrize("executor", [pytest.param("processes", marks=pytest.mark.slow), "inline"])
def test_a_gpu_that_is_not_there_ends_the_sweep_with_one_error_and_no_failure(tmp_path, monkeypatch, executor):
    """Real workers, and CUDA as it is here: hidden, or not there at all."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-of-nobody")
    if executor == "inline" and torch.cuda.is_available():
        pytest.skip("this process may have its GPU open")
    monkeypatch.setattr(sweep, "find_devices", lambda experiment: ["cuda:0"])
    with pytest.raises(DeviceError, match=r"cuda:0.*(NVIDIA|CUDA).*not recorded as failed"):
        run(tmp_path / "hurt", *SMALL, f"executor={executor}")
    assert list((tmp_path / "hurt" / "store").glob("failures/*")) == []
    assert list((tmp_path / "hurt" / "store").glob("claims/*")) == []
    assert list((tmp_path / "hurt" / "store").glob("state/*/*.safetensors"))  # such are the CPU's
    monkeypatch.setattr(sweep, "find_devices", find_devices)
    for folder in ("hurt", "whole"):
        assert run(tmp_path / folder, *SMALL, "devices.accelerator=cpu")[0] == 0
    assert content(tmp_path / "hurt") == content(tmp_path / "whole")
