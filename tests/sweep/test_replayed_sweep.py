"""A sweep whose steps are recorded and replayed is the plain sweep: same plan, same bits, and its records say so."""

import pytest
import torch

import prune_bench as pb
from prune_bench.config import load_experiment
from prune_bench.sweep.store import Store
from prune_bench.sweep.sweep import prepare
from prune_bench.training import replay
from tests.sweep.test_sweep import results, run

FEW = (
    "densities=[0.5]", "variants=[original]", "prune_at=[rewind]", "methods={ltr: {cut: 0.5}, cts: {steps: 6}}",
    "train.epochs=4", "train.rewind_epoch=2", "train.milestones=[3]",
)  # fmt: skip
ALONE, PACKED = ("train.pack=1",), ("train.pack=2", "seeds=[0,1]")


@pytest.fixture
def taped(monkeypatch):
    """This machine has a tape where a GPU has a graph."""
    real = replay.recorded_steps
    monkeypatch.setattr(replay, "recorded_steps", lambda kind: real(kind and "tape"))
    monkeypatch.setattr(replay, "replay_here", lambda setting, device: setting == "on")


def artifacts(folder):
    store = Store(str(folder / "store"))
    plan = prepare(load_experiment(folder / "experiment.yaml"))
    return {key: store.read(key) for key in plan.stages}


@pytest.mark.parametrize("packed", [ALONE, pytest.param(PACKED, marks=pytest.mark.slow)])
def test_a_replayed_sweep_has_the_bits_of_a_plain_one_and_says_that_it_was_replayed(packed, taped, tmp_path):
    for setting in ("on", "off"):
        code, words = run(tmp_path / setting, *FEW, *packed, f"devices.replay={setting}")
        assert code == 0, words
    replayed, plain = artifacts(tmp_path / "on"), artifacts(tmp_path / "off")
    assert len(plain) > 7
    assert list(replayed) == list(plain)
    for key, artifact in plain.items():
        assert all((artifact.tensors[n] == v).all() for n, v in replayed[key].tensors.items()), key
        assert "replayed" not in artifact.record["made_by"]
    said = {key.partition("-")[0] for key, own in replayed.items() if own.record["made_by"].get("replayed") is True}
    assert said == {"state", "ranking", "training", "result"}
    columns = [c for c in results(tmp_path / "on").columns if c != "replayed"]
    assert results(tmp_path / "on")[columns].equals(results(tmp_path / "off")[columns])
    assert pb.load_results(tmp_path / "on")["replayed"].all()


def test_on_a_cpu_nothing_is_replayed_whatever_is_asked_for(tmp_path):
    code, words = run(tmp_path, *FEW, "devices.replay=on")
    assert code == 0, words
    assert all("replayed" not in own.record["made_by"] for own in artifacts(tmp_path).values())
    assert not replay.replay_here("auto", torch.device("cuda:0"))
