"""A stage leaves nothing behind but its artifact, and takes to a device only what it needs there."""

import gc
import weakref

import pytest
import torch
from lightning.pytorch import LightningModule

from prune_bench.config import make_experiment
from prune_bench.data import DeviceData, load_data
from prune_bench.sweep import compute as computing
from prune_bench.sweep.compute import compute
from prune_bench.sweep.sweep import prepare

CPU = torch.device("cpu")
EXPERIMENT = {
    "name": "tiny",
    "model": {"name": "resnet8", "width": 4},
    "data": {"name": "synthetic", "samples": 64, "test_samples": 32, "image_size": 8, "channels": 1, "classes": 4},
    "train": {"epochs": 2, "batch_size": 32, "milestones": [1], "rewind_epoch": 1},
    "prune_at": ["init", "rewind"],
    "methods": {
        "snip": {},
        "grasp": {},
        "synflow": {"steps": 2},
        "ltr": {},
        "cts_kl": {"steps": 2, "batch_size": 32},
    },
    "densities": [0.7],
    "seeds": [0],
    "wandb": {"mode": "disabled"},
}


@pytest.fixture(autouse=True)
def nothing_kept():
    yield
    computing._last.clear()


@pytest.fixture(scope="module")
def plan():
    return prepare(make_experiment(EXPERIMENT))


def run(plan, device=lambda stage: CPU, after=lambda stage: None):
    """Every stage in turn; calls ``after`` when it is done."""
    made = {}
    for key, stage in plan.stages.items():
        inputs = {role: made[needed] for role, needed in stage.inputs.items()}
        (made[key],) = compute([stage], [inputs], device(stage))
        made[key].record.setdefault("made_by", {})
        after(stage)


@pytest.fixture
def no_collection():
    """Python's collector of cycles does not run: what is gone has been freed by its last user."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_stages_leave_no_data_set_and_no_module_alive(plan, no_collection, monkeypatch):
    made = []
    for cls in (DeviceData, LightningModule):

        def init(self, *args, real=cls.__init__, **how):
            made.append(weakref.ref(self))
            real(self, *args, **how)

        monkeypatch.setattr(cls, "__init__", init)

    def alive():
        return [found for reference in made if (found := reference()) is not None]

    run(plan, after=lambda stage: computing._last.clear() or (alive() and pytest.fail(f"{stage.label}: {alive()}")))
    kinds = [stage.kind for stage in plan.stages.values()]
    assert len(made) >= len(plan.stages) - kinds.count("result") > 20


def test_only_the_last_data_set_stays_where_it_was_moved(no_collection):
    def load(samples, seed=0):
        return load_data("synthetic", {"samples": samples, "test_samples": 16, "image_size": 8}, seed)

    meta = torch.device("meta")
    one, other = computing._moved([load(32, 0), load(32, 1)], meta)
    assert one._train.images is other._train.images
    pixels = weakref.ref(one._train.images)
    del one, other
    (again,) = computing._moved([load(32, 2)], meta)
    assert again._train.images is pixels()
    del again
    (another,) = computing._moved([load(48)], meta)
    assert pixels() is None and len(another._train.labels) == 48
    assert list(computing._last) == [meta]


def test_fresh_weights_tickets_and_results_touch_no_device(plan, monkeypatch):
    there = torch.device("cuda", 0)

    def moved(self, device):
        assert torch.device(device) != there
        return self

    monkeypatch.setattr(DeviceData, "to", moved)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("CUDA was initialised"))
    seen = set()

    def device(stage):
        light = stage.kind in ("ticket", "result") or (stage.kind == "state" and stage.spec["epoch"] == 0)
        seen.update([stage.kind] if light else [])
        return there if light else CPU

    run(plan, device)
    assert seen == {"state", "ticket", "result"}
