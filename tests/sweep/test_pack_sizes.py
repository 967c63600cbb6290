"""How many lanes a pack has on a GPU: by the GPU's profile, and from then on by the run's folder."""

import io
import json

import pytest
from rich.console import Console

from prune_bench.config import make_experiment
from prune_bench.device_profile import local_versions, write_profile
from prune_bench.errors import PruneBenchError
from prune_bench.report.results import read_records
from prune_bench.sweep import sweep
from prune_bench.sweep.pack_sizes import pack_sizes
from prune_bench.sweep.packs import make_packs
from tests.nvidia import H100, profile, step
from tests.sweep.test_packs import TINY


def lanes_of(folder, *overrides):
    """The sizes of the packs that a sweep on a GPU has, by kind."""
    folder.mkdir(exist_ok=True)
    experiment = make_experiment(TINY, [f"output={folder}", *overrides])
    plan = sweep.prepare(experiment)
    packs = make_packs(plan, pack_sizes(experiment, sweep.sample_data(experiment), "cuda"))
    return sorted(len(pack) for pack in packs if pack[0].startswith("training"))


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
    console = Console(file=io.StringIO(), width=200)
    assert sweep.run_sweep(experiment, console, dry_run=True) == 0
    assert not (tmp_path / "run").exists()
    assert sweep.run_sweep(experiment, console) == 0
    assert list(json.loads((tmp_path / "run" / "packs.json").read_text()).values()) == [2]
    assert [record["made_by"]["lanes"] for record in read_records(tmp_path / "run")] == [2, 2]
    assert console.file.getvalue().count("replay is off on this GPU: tried, and not every step can be recorded") == 1
