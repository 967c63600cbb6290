"""A sweep whose steps are recorded and replayed is the plain sweep: same plan, same bits, and its records say so."""

import pytest
import torch

import prune_bench as pb
from prune_bench.config import load_experiment
from prune_bench.sweep.store import Store
from prune_bench.sweep.sweep import prepare
from prune_bench.training import replay
from prune_bench.training.sparse import SparseTraining
from tests.sweep.test_sweep import results, run

FEW = (
    "densities=[0.5]", "variants=[original]", "prune_at=[rewind]", "methods={ltr: {cut: 0.5}, cts: {steps: 6}}",
    "train.epochs=4", "train.rewind_epoch=2", "train.milestones=[3]",
)  # fmt: skip
HALVED = (
    "densities=[0.5]", "variants=[original]", "prune_at=[init]", "methods={magnitude: {}}", "seeds=[0,1,2]",
    "train.pack=4", "train.epochs=4", "train.milestones=[3]", "train.batch_size=16",
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


@pytest.fixture
def small_memory(monkeypatch):
    """Room for two trainings, found out in epoch 2; ``small_memory(e)`` cuts a sweep off before a half's epoch e."""
    real, cut, begun = SparseTraining.on_train_epoch_start, [-1], []

    def start(training):
        if training.lanes > 2 and training.current_epoch == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if training.lanes <= 2 and training.current_epoch == cut[0]:
            raise KeyboardInterrupt
        begun.append((training.lanes, training.current_epoch))
        real(training)

    monkeypatch.setattr(SparseTraining, "on_train_epoch_start", start)

    def until(epoch):
        cut[0] = epoch
        begun.clear()
        return begun

    return until


def test_a_halved_pack_that_was_recorded_and_cut_off_goes_on_from_its_checkpoint_to_the_bits_of_a_plain_one(
    taped, small_memory, tmp_path
):
    words = ("limits.checkpoint_seconds=0.000001", *HALVED)
    assert run(tmp_path / "plain", *words, "devices.replay=off")[0] == 0
    begun = small_memory(3)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", *words, "devices.replay=on")
    assert begun == [(3, 0), (3, 1), (2, 0), (2, 1), (2, 2)]
    begun = small_memory(-1)
    assert run(tmp_path / "cut", *words, "devices.replay=on")[0] == 0
    # The whole pack is tried first, from its own checkpoint, and does not fit; the half goes on where it was.
    assert begun == [(2, 3), (1, 0), (1, 1), (1, 2), (1, 3)]
    plain, cut = artifacts(tmp_path / "plain"), artifacts(tmp_path / "cut")
    assert list(cut) == list(plain)
    for key, artifact in plain.items():
        assert all((artifact.tensors[n] == v).all() for n, v in cut[key].tensors.items()), key
        assert artifact.record.get("halved_from") == cut[key].record.get("halved_from")
    trainings = [own.record for key, own in cut.items() if key.startswith("training")]
    assert [(len(own["halved_from"]), own["made_by"]["replayed"]) for own in trainings] == [(3, True)] * 3


def test_on_a_cpu_nothing_is_replayed_whatever_is_asked_for(tmp_path):
    code, words = run(tmp_path, *FEW, "devices.replay=on")
    assert code == 0, words
    assert all("replayed" not in own.record["made_by"] for own in artifacts(tmp_path).values())
    assert not replay.replay_here("auto", torch.device("cuda:0"))
