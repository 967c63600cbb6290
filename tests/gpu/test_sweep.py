"""Whole sweeps on a pretended GPU: every stage by the product's own way, the table that of the CPU to the bit."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

import prune_bench as pb
from prune_bench.config import make_experiment
from prune_bench.sweep import sweep
from tests.gpu.pretended import pretended_gpu

TOY = {
    "name": "toy",
    "model": {"name": "resnet8", "width": 4},
    "data": {"name": "synthetic", "samples": 64, "test_samples": 32, "image_size": 8, "channels": 1, "classes": 4},
    "train": {"epochs": 2, "batch_size": 32, "milestones": [1], "rewind_epoch": 1},
    "methods": {
        "dense": {}, "random_erk": {}, "magnitude": {}, "snip": {}, "grasp": {}, "synflow": {"steps": 2}, "ltr": {},
        "cts": {"steps": 2, "batch_size": 32}, "cts_kl": {"steps": 2, "batch_size": 32},
    },
    "densities": [0.5],
    "seeds": [0, 1],
    "prune_at": ["rewind"],
    "executor": "inline",
    "wandb": {"mode": "disabled"},
}  # fmt: skip
OF_THE_MACHINE = ["search/seconds", "train/seconds", "memory/peak_bytes", "run", "device"]


def table(folder: Path, accelerator: str, *overrides: str) -> pd.DataFrame:
    """The results of a sweep in which nothing fails."""
    where = [f"output={folder}", f"devices.accelerator={accelerator}"]
    experiment, out = make_experiment(TOY, [*where, *overrides]), io.StringIO()
    code = sweep.run_sweep(experiment, Console(file=out, width=140))
    assert code == 0, out.getvalue()
    results = pb.load_results(folder)
    assert results.device.str.startswith(accelerator).all()
    return results.drop(columns=OF_THE_MACHINE)


def test_stages_of_a_sweep_run_on_a_gpu(gpu, tmp_path):
    found = table(tmp_path, "cuda", "methods={snip: {}}", "seeds=[0]")
    assert set(found.status) == {"done"}
    assert gpu.seen.faults == []


@pytest.mark.slow
@pytest.mark.parametrize("pack", [1, 4])
def test_a_sweeps_table_is_the_cpus_to_the_bit(layout_of_a_gpu, tmp_path, pack):
    with pretended_gpu() as gpu:
        found = table(tmp_path / "cuda", "cuda", f"train.pack={pack}")
    assert gpu.seen.faults == []
    assert len(found) == 2 * len(TOY["methods"])
    pd.testing.assert_frame_equal(found, table(tmp_path / "cpu", "cpu", f"train.pack={pack}"), check_exact=True)


@pytest.mark.gpu
@pytest.mark.parametrize("pack", [1, 4])
def test_a_sweep_run_twice_on_a_real_gpu_gives_the_same_bits(cuda, tmp_path, pack):
    one, other = (table(tmp_path / name, "cuda", f"train.pack={pack}") for name in ("one", "other"))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
