"""What is said of versions, devices and a GPU. The GPU is a stand-in of torch's, the driver a script."""

from types import SimpleNamespace

import pytest
import torch

from prune_bench.device_profile import local_profiles, local_versions
from prune_bench.doctor import gpu, versions
from prune_bench.errors import ConfigError
from tests.doctor.planted import subject, verdicts
from tests.nvidia import H100, step

GB = 10**9


@pytest.fixture
def h100(machine, monkeypatch):
    machine(H100)
    cuda = SimpleNamespace(name="NVIDIA H100 80GB HBM3", major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: cuda)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (79 * GB, 80 * GB))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)


def look(*overrides, **how):
    return list(gpu.look(subject(*overrides, device="cuda:0", **how)))


def test_versions_and_devices_of_this_machine():
    told, devices = versions.look(subject("devices.accelerator=cpu", "devices.count=3"))
    assert (told.verdict, torch.__version__ in told.words) == ("pass", True)
    assert devices.values == {"slots": ["cpu"] * 3, "devices": ["cpu"]}


def test_why_there_is_no_device_is_told_and_the_cpu_is_looked_at(monkeypatch):
    def nothing(experiment):
        raise ConfigError("devices.accelerator", "auto", "the driver is too old: devices.accelerator=cpu")

    monkeypatch.setattr("prune_bench.sweep.executors.find_devices", nothing)
    line = versions.devices(subject().experiment)
    assert (line.verdict, "the driver is too old" in line.words) == ("mend", True)
    assert line.values["devices"] == ["cpu"]


def test_who_hides_the_gpus_is_told_so(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert "CUDA_VISIBLE_DEVICES='-1' hides every GPU" in versions.devices(subject().experiment).words


def test_devices_of_a_cluster_are_not_asked_for_and_those_that_share_a_cell_are_counted_apart():
    words = ("devices.accelerator=cpu", "devices.count=4", "devices.per_cell=2")
    line = versions.devices(subject(*words, "devices.address=head:6379", "executor=ray").experiment)
    assert line.values == {"slots": ["cpu+cpu"] * 2, "devices": ["cpu"]}


def test_a_good_gpu_passes(h100):
    lines = look()
    assert {line.verdict for line in lines} == {"pass"}
    assert "NVIDIA H100 80GB HBM3, capability 9.0, 80.0 GB, with bfloat16" in lines[0].words
    assert "driver 580.65.06" in lines[1].words
    assert lines[0].values["versions"]["driver"] == "580.65.06"


@pytest.mark.parametrize(
    ("mode", "overrides", "verdict"),
    [
        ("Default", ["devices.cells_per_gpu=2"], "pass"),
        ("Exclusive_Process", [], "pass"),
        ("Exclusive_Process", ["devices.cells_per_gpu=2"], "mend"),
        ("Prohibited", [], "mend"),
    ],
)
def test_a_compute_mode_that_keeps_cells_off_is_a_mend(h100, monkeypatch, mode, overrides, verdict):
    one = SimpleNamespace(driver="580", compute_mode=mode)
    monkeypatch.setattr("prune_bench.gpus.visible_gpus", lambda: (one,))
    assert gpu.driver(subject(*overrides).experiment).verdict == verdict


def test_a_driver_that_is_silent_is_a_mend_and_no_profile_is_kept(h100, machine):
    machine()
    assert ("driver", "mend") in verdicts(look())
    assert verdicts(gpu.keep(subject(known=look()[0].values))) == [("profile", "skipped")]


def test_of_two_kinds_it_is_the_one_that_torch_names(h100, machine, monkeypatch):
    machine("GPU 0: Tesla T4 (UUID: GPU-a1)", H100.replace("GPU 0", "GPU 1"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # the fastest, which is the driver's second
    assert look()[0].values["versions"]["gpu"] == "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize("overrides", [["train.precision=bfloat16"], ["methods={cts: {precision: bfloat16}}"]])
def test_bfloat16_that_the_gpu_has_not_is_a_mend(h100, monkeypatch, overrides):
    assert ("precision", "pass") in verdicts(look(*overrides))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert ("precision", "mend") in verdicts(look(*overrides))
    assert ("precision", "pass") in verdicts(look())


def test_memory_that_others_hold_is_a_mend(h100, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (20 * GB, 80 * GB))
    assert ("GPU memory", "mend") in verdicts(look())


def test_the_profile_holds_what_was_found_and_is_read_by_a_sweep(h100):
    from dataclasses import asdict

    rows = [asdict(step(1, 2.0)), asdict(step(2, 2.2))]
    known = look()[0].values | {"replay": {"training float32": 0.0}, "steps": rows}
    (line,) = gpu.keep(subject(known=known))
    assert (line.verdict, "replay is on by itself" in line.words) == ("pass", True)
    (profile,) = local_profiles()
    assert profile.versions == local_versions()[0]
    assert profile.best_lanes(rows[0]["network"], 32, "float32") == 2
    (line,) = gpu.keep(subject(known=look()[0].values))
    assert "replay stays off" in line.words
    assert not local_profiles()[0].replay_passed


def test_a_cache_that_cannot_be_written_is_a_mend(h100, tmp_path, monkeypatch):
    known = look()[0].values
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert verdicts(gpu.keep(subject(known=known))) == [("profile", "mend")]
