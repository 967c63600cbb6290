"""A GPU's profile: whose it is, and how many lanes a pack has by it. The GPU is an ``nvidia-smi`` that says so."""

import io
import json
import os
from dataclasses import replace

import pytest
from rich.console import Console

from prune_bench.config import make_experiment
from prune_bench.errors import PruneBenchError
from prune_bench.gpus import visible_gpus
from prune_bench.report.results import read_records
from prune_bench.sweep import sweep
from prune_bench.sweep.pack_sizes import pack_sizes
from prune_bench.sweep.packs import make_packs
from prune_bench.sweep.profile import (
    DeviceProfile,
    StepTime,
    local_profiles,
    local_versions,
    network_mark,
    profile_path,
    read_profile,
    write_profile,
)
from tests.sweep.test_packs import TINY

H100 = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa1111)"
GIB = 2**30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """``machine(line, ...)`` lets ``nvidia-smi -L`` say these lines; every GPU has one driver. The cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def has(*lines, driver="580.65.06"):
        uuids = [line.split("UUID: ")[1].rstrip(")") for line in lines if line.startswith("GPU")]
        rows = "\n".join(f"{uuid}, {driver}, Default" for uuid in uuids)
        listing = "\n".join(lines)
        script = f'#!/bin/sh\nif [ "$1" = -L ]; then cat <<"E"\n{listing}\nE\nelse cat <<"E"\n{rows}\nE\nfi\n'
        (tmp_path / "nvidia-smi").write_text(script)
        (tmp_path / "nvidia-smi").chmod(0o755)

    return has


def step(lanes, ms, *, batch=32, network=None, **others):
    network = network or network_mark(make_experiment(TINY), (1, 8, 8), 4)
    values = {
        "precision": "float32",
        "layout": "contiguous",
        "own": True,
        "replayed_ms": None,
        "peak_bytes": lanes * GIB,
    }
    return StepTime(network=network, batch=batch, lanes=lanes, plain_ms=ms, **(values | others))


def profile(*steps, replay=None, versions=None):
    (own,) = [versions] if versions else local_versions()
    return DeviceProfile(
        versions=own, when="2026-11-25", memory_bytes=10 * GIB, replay={} if replay is None else replay, steps=steps
    )


def lanes_of(folder, *overrides):
    """The sizes of the packs that a sweep on a GPU has, by kind."""
    folder.mkdir(exist_ok=True)
    experiment = make_experiment(TINY, [f"output={folder}", *overrides])
    plan = sweep.prepare(experiment)
    packs = make_packs(plan, pack_sizes(experiment, sweep.sample_data(experiment), "cuda"))
    return sorted(len(pack) for pack in packs if pack[0].startswith("training"))


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["A", "B", "B"]),
        ("", []),
        ("2,0", ["B", "A"]),
        ("GPU-b2, 0", ["B", "A"]),
        ("0,7,1", ["A"]),
        ("-1", []),
    ],
)
def test_gpus_are_those_that_cuda_would_see(machine, monkeypatch, visible, names):
    machine("GPU 0: A (UUID: GPU-a1)", "GPU 1: B (UUID: GPU-b1)", "GPU 2: B (UUID: GPU-b2)")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.name for gpu in visible_gpus()] == names


def test_a_slice_of_a_gpu_is_called_as_torch_calls_it_and_is_not_the_whole(machine, monkeypatch):
    machine("GPU 0: NVIDIA A100 (UUID: GPU-a1)", "  MIG 1g.5gb     Device  0: (UUID: MIG-c1)",
            "  MIG 1g.5gb     Device  1: (UUID: MIG-c2)", "GPU 1: NVIDIA A100 (UUID: GPU-a2)")  # fmt: skip
    assert [gpu.name for gpu in visible_gpus()] == ["NVIDIA A100 MIG 1g.5gb"] * 2 + ["NVIDIA A100"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-c2")
    assert [gpu.driver for gpu in visible_gpus()] == ["580.65.06"]


def test_a_driver_that_does_not_answer_is_no_gpu(tmp_path, machine, monkeypatch):
    monkeypatch.setattr("prune_bench.gpus._PATIENCE", 0.2)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 20\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert visible_gpus() == ()


def test_a_profile_comes_back_as_it_was_and_lies_under_all_that_it_depends_on(machine):
    machine(H100)
    written = profile(step(1, 2.0), step(2, 2.5, replayed_ms=1.0), replay={"training float32": 0.0, "cts tf32": 1e-9})
    path = write_profile(written)
    assert read_profile(written.versions) == written
    versions = written.versions
    assert path.name == f"NVIDIA_H100_80GB_HBM3-{versions.torch}-{versions.cudnn}-580.65.06.json"


def test_a_profile_of_other_versions_is_not_used_even_under_this_ones_name(machine):
    machine(H100)
    path = write_profile(profile(step(1, 2.0)))
    machine(H100, driver="590.01")
    assert local_profiles() == []
    path.rename(profile_path(*local_versions()))
    assert local_profiles() == []


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"format": 1}', "cut", "negative", "later", "\0\xff"])
def test_a_damaged_profile_is_none(machine, damage):
    machine(H100)
    path = write_profile(profile(step(1, 2.0)))
    values = json.loads(path.read_text())
    if damage == "negative":
        values["steps"][0]["plain_ms"] = -1.0
    if damage == "later":
        values["format"] = 2
    texts = {"cut": path.read_text()[:-20], "negative": json.dumps(values), "later": json.dumps(values)}
    path.write_text(texts.get(damage, damage))
    assert local_profiles() == []
    path.unlink()
    assert local_profiles() == []


def test_a_new_profile_keeps_what_was_measured_of_other_networks(machine):
    machine(H100)
    write_profile(profile(step(1, 2.0, network="other"), step(1, 3.0), step(2, 3.0)))
    write_profile(profile(step(1, 4.0)))
    (now,) = local_profiles()
    assert [(s.network == "other", s.plain_ms) for s in now.steps] == [(True, 2.0), (False, 4.0)]


def test_best_lanes_are_the_fewest_that_are_about_as_quick_a_lane_and_fit(machine):
    machine(H100)
    one = step(1, 1.0)

    def best(*steps, **how):
        return profile(*steps, **how).best_lanes(one.network, 32, "float32")

    assert best(one, step(2, 1.1), step(4, 1.2), step(8, 2.39)) == 4  # 0.300 ms a lane; of 8 lanes 0.299
    assert best(one, step(2, 2.1), step(4, 5.0)) == 1
    assert best(one, step(2, 1.1), step(4, 1.2, peak_bytes=9 * GIB)) == 2
    assert best(replace(one, peak_bytes=9 * GIB)) == 1
    # What is replayed counts where replay is right, and there alone.
    replayed = (replace(one, replayed_ms=0.2), step(2, 1.1, replayed_ms=0.6))
    assert best(*replayed, replay={"training float32": 0.0}) == 1
    assert best(*replayed, replay={"training float32": 1e-9}) == 2
    assert best(*replayed) == 2
    # Steps in a layout that trainings do not use decide nothing.
    assert best(one, step(2, 1.1, own=False)) == 1
    assert profile(one).best_lanes(one.network, 64, "float32") is None
    assert profile(one).best_lanes(one.network, 32, "bfloat16") is None
    assert profile(one).best_lanes("another", 32, "float32") is None


def test_auto_packs_on_a_gpu_as_its_profile_says_and_without_one_nothing(tmp_path, machine):
    machine(H100)
    assert lanes_of(tmp_path / "without") == [1] * 12
    write_profile(profile(step(1, 1.0), step(2, 1.05), step(4, 1.1)))
    assert lanes_of(tmp_path / "with") == [3] * 4  # six cells a method, at most four side by side
    assert lanes_of(tmp_path / "large", "train.batch_size=64") == [1] * 12
    assert lanes_of(tmp_path / "asked", "train.pack=2") == [2] * 6
    assert lanes_of(tmp_path / "alone", "train.pack=1") == [1] * 12


def test_of_several_kinds_of_gpu_the_pack_fits_all(tmp_path, machine):
    machine(H100, "GPU 1: NVIDIA T4 (UUID: GPU-bbbb)")
    h100, t4 = local_versions()
    write_profile(profile(step(1, 1.0), step(8, 1.1), versions=h100))
    assert lanes_of(tmp_path / "one") == [1] * 12
    write_profile(profile(step(1, 1.0), step(2, 1.1), versions=t4))
    assert lanes_of(tmp_path / "both") == [2] * 6


def test_a_run_keeps_the_packs_it_began_with(tmp_path, machine):
    machine(H100)
    path = write_profile(profile(step(1, 1.0), step(2, 1.05)))
    assert lanes_of(tmp_path / "run") == [2] * 6
    write_profile(profile(step(1, 1.0), step(4, 1.05)))
    assert lanes_of(tmp_path / "run") == [2] * 6
    path.unlink()
    assert lanes_of(tmp_path / "run") == [2] * 6
    # What was begun without a profile goes on without packs, so that no cell changes its bits.
    assert lanes_of(tmp_path / "early") == [1] * 12
    write_profile(profile(step(1, 1.0), step(4, 1.05)))
    assert lanes_of(tmp_path / "early") == [1] * 12
    # A key that the run did not have yet is decided now, beside what stands.
    write_profile(profile(step(1, 1.0, batch=16), step(2, 1.05, batch=16)))
    assert lanes_of(tmp_path / "run", "train.batch_size=16") == [2] * 6
    assert lanes_of(tmp_path / "run") == [2] * 6


@pytest.mark.parametrize("damage", ["{", "[1]", '{"a": 0}', '{"a": "2"}', '{"a": true}'])
def test_pins_that_are_damaged_are_told_and_not_passed_over(tmp_path, machine, damage):
    machine(H100)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "packs.json").write_text(damage)
    with pytest.raises(PruneBenchError, match=r"packs\.json cannot be read.*remove it"):
        lanes_of(tmp_path / "run")


def test_a_sweep_pins_at_its_start_and_a_dry_run_pins_nothing(tmp_path, machine, monkeypatch):
    machine(H100)
    write_profile(profile(step(1, 1.0), step(2, 1.05)))
    monkeypatch.setattr(sweep, "device_kind", lambda device: "cuda")
    words = [
        f"output={tmp_path / 'run'}",
        "devices.accelerator=cpu",
        "densities=[0.5]",
        "seeds=[0,1]",
        "methods=[snip]",
    ]
    experiment = make_experiment(TINY, words)
    console = Console(file=io.StringIO())
    assert sweep.run_sweep(experiment, console, dry_run=True) == 0
    assert not (tmp_path / "run").exists()
    assert sweep.run_sweep(experiment, console) == 0
    assert list(json.loads((tmp_path / "run" / "packs.json").read_text()).values()) == [2]
    assert [record["made_by"]["lanes"] for record in read_records(tmp_path / "run")] == [2, 2]
