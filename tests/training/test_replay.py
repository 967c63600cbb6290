"""A recorded step is the plain step: equal bits whatever is trained or searched, and plain where it cannot be."""

import functools
import logging
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import prune_bench as pb
from prune_bench.data import load_data
from prune_bench.files import LocalFiles
from prune_bench.mask import Mask, prunable_weights
from prune_bench.models import build_model
from prune_bench.packing import pack_data
from prune_bench.pruners import concrete, pruners
from prune_bench.pruners.gradbalance import GradBalance
from prune_bench.pruners.objectives import OBJECTIVES
from prune_bench.randomness import generator
from prune_bench.training import Checkpoint, fit, train_lanes
from prune_bench.training.descent import Descent
from prune_bench.training.replay import Replayed, Tape, record_of, recorded_steps, replay_here

CPU = torch.device("cpu")
RECIPE = pb.Recipe(epochs=4, batch_size=16, milestones=(1, 3), clip_norm=0.5)


def lane_data(seed):
    options = {"samples": 96, "test_samples": 20, "image_size": 8, "channels": 1, "classes": 4, "validation": 0.0}
    return load_data("synthetic", options, seed)


def lane_network(seed):
    shape = {"in_channels": 1, "image_size": 8, "num_classes": 4}
    return build_model("resnet8", {"width": 4}, generator=generator(seed, "t"), **shape)


def lane_mask(network, seed):
    g = torch.Generator().manual_seed(seed)
    return Mask({n: torch.rand(w.shape, generator=g) < 0.3 for n, w in prunable_weights(network).items()})


def training(lanes=1, recipe=RECIPE, networks=None, data=None, checkpoint=None):
    networks = networks or [lane_network(seed) for seed in range(lanes)]
    masks = [lane_mask(network, seed) for seed, network in enumerate(networks)]
    data = data or pack_data([lane_data(seed) for seed in range(lanes)])
    torch.manual_seed(0)
    trained = train_lanes(networks, masks, recipe, data, device=CPU, checkpoint=checkpoint)
    return [v for lane in trained for v in lane.network.state_dict().values()] + [
        torch.tensor(row["train/loss"]) for lane in trained for row in lane.curves
    ]


def search(method="cts", lanes=1, densities=(0.1, 0.2, 0.3), **options):
    entry = pruners[method]
    options = options if method == "ltr" else {"steps": 12, "batch_size": 16, **options}
    made = [
        entry.build(lane_network(s), (densities[s],), entry.options(**options), recipe=RECIPE, seed=s)
        for s in range(lanes)
    ]
    made[0].join(made[1:])
    fit(made[0], made[0].work(pack_data([lane_data(s) for s in range(lanes)])), epochs=1, device=CPU)
    rankings = [layer for own in made for found in own.found.values() for layer in found.layers.values()]
    numbers = [torch.tensor(list(row.values())) for own in made for row in own.curves]
    logits = [] if method == "ltr" else [made[0].logits.detach()]
    return rankings + numbers + logits


def same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other))


def replayed(run):
    """What ``run`` gives with steps recorded, of which most must have been replayed."""
    with recorded_steps("tape") as recording:
        found = run()
    assert recording.replayed > 0
    return found


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_of_recorded_steps_has_the_bits_of_a_plain_one(lanes, precision):
    recipe = pb.Recipe(epochs=4, batch_size=16, milestones=(1, 3), clip_norm=0.5, precision=precision)
    assert same(training(lanes, recipe), replayed(lambda: training(lanes, recipe)))


def test_all_steps_but_the_first_three_are_replayed():
    with recorded_steps("tape") as recording:
        training()
    assert recording.replayed == 4 * 6 - 3


def test_a_rate_that_changes_and_is_not_told_goes_wrong(monkeypatch):
    plain = training()
    real = Descent.begin_epoch
    monkeypatch.setattr(Descent, "begin_epoch", lambda self, epoch: real(self, epoch) and False)
    assert same(plain, training())
    assert not same(plain, replayed(training))


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_a_search_of_recorded_steps_has_the_bits_of_a_plain_one(objective):
    assert same(search(objective=objective), replayed(lambda: search(objective=objective)))


@pytest.mark.parametrize("options", [{}, {"control": "lagrange"}, {"precision": "bfloat16"}], ids=str)
def test_so_have_searches_side_by_side(options):
    assert same(search("cts_kl", 3, **options), replayed(lambda: search("cts_kl", 3, **options)))


@pytest.mark.parametrize("lanes", [1, 3])
def test_so_has_a_search_whose_balance_is_at_work(lanes, monkeypatch):
    monkeypatch.setattr(concrete, "GradBalance", functools.partial(GradBalance, slack=0.5))
    plain = search(lanes=lanes)
    assert same(plain, replayed(lambda: search(lanes=lanes)))


def test_a_balance_that_is_another_tensor_each_step_would_go_wrong(monkeypatch):
    class Rebound(GradBalance):
        def combine(self, logits, gradient):
            self.weight = self.weight.clone()
            return super().combine(logits, gradient)

    monkeypatch.setattr(concrete, "GradBalance", functools.partial(Rebound, slack=0.5))
    assert not same(search(), replayed(search))


@pytest.mark.parametrize("lanes", [1, 2])
def test_so_has_a_level_after_the_other_of_rewinding(lanes):
    def run():
        return search("ltr", lanes, densities=(0.6, 0.6), epochs=2)

    assert same(run(), replayed(run))


class Reads(nn.Module):
    """Its forward pass asks ``read`` for a value of the activations."""

    def __init__(self, read):
        super().__init__()
        self.fc, self.norm, self.read = nn.Linear(64, 4), nn.BatchNorm1d(64), read

    def forward(self, x):
        x = self.norm(x.flatten(1))
        return self.fc(x / max(1.0, float(self.read(x))))


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.abs().max().item(),
        lambda x: x.abs().max().tolist(),
        lambda x: x.detach().abs().max().numpy(),
        lambda x: x[x > 0].sum(),
        lambda x: torch.nonzero(x > 0).shape[0] / 100,
        lambda x: 1 + random.random(),
        lambda x: 1 + np.random.rand(),
    ],
    ids=["item", "tolist", "numpy", "mask", "nonzero", "Python's generator", "NumPy's"],
)
def test_a_network_that_reads_values_runs_plainly_with_one_word(read, caplog):
    torch.manual_seed(0)
    networks = [Reads(read)]
    results = []
    for kind in (None, "tape"):
        random.seed(0), np.random.seed(0)
        with caplog.at_level(logging.WARNING), recorded_steps(kind) as recording:
            results.append(training(networks=networks))
    assert same(*results)
    assert recording.replayed == 0
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == [
        "steps are not replayed, because they cannot be recorded"
    ]


def test_a_level_after_one_that_could_not_be_recorded_does_not_try_again(caplog, monkeypatch):
    monkeypatch.setattr(Tape, "record", refused)
    with caplog.at_level(logging.WARNING), recorded_steps("tape"):
        found = search("ltr", densities=(0.6,), epochs=2)
    assert sum("cannot be recorded" in record.getMessage() for record in caplog.records) == 1
    assert same(found, search("ltr", densities=(0.6,), epochs=2))


def refused(self, step):
    raise RuntimeError("no")


class Fails(Tape):
    """Raises in the middle of what it records: weights are half updated by then."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ == self.at:
            raise RuntimeError(f"{func} cannot be captured")
        return super().__torch_dispatch__(func, types, args, kwargs)


@pytest.mark.parametrize("at", ["_fused_sgd_", "_foreach_mul_", "native_batch_norm_backward", "detach"])
def test_a_record_that_fails_half_way_leaves_no_trace(at, monkeypatch):
    networks = [nn.Sequential(lane_network(0), nn.Dropout(0.1))]  # its draws must be put back too
    plain = training(networks=networks)
    monkeypatch.setattr(Fails, "at", at, raising=False)
    monkeypatch.setattr("prune_bench.training.replay.Tape", Fails)
    with recorded_steps("tape") as recording:
        assert same(plain, training(networks=networks))
    assert (recording.replayed, recording.refused) == (0, True)


def test_layers_that_draw_draw_the_same():
    networks = [nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 4))]
    assert same(training(networks=networks), replayed(lambda: training(networks=networks)))


def test_running_statistics_go_on():
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4))
    assert same(training(networks=[network]), replayed(lambda: training(networks=[network])))


class Uneven:
    """Batches of which every third is smaller."""

    samples, num_classes, input_shape = 96, 4, (1, 8, 8)

    def __init__(self):
        self._whole = lane_data(0)

    def steps_per_epoch(self, batch_size):
        return self._whole.steps_per_epoch(batch_size)

    def epoch(self, epoch, batch_size, *, augment):
        for i, (x, y) in enumerate(self._whole.epoch(epoch, batch_size, augment=augment)):
            yield (x[:9], y[:9]) if i % 3 == 2 and epoch > 0 else (x, y)

    def evaluation(self, split, batch_size):
        return iter([])


def test_a_batch_of_another_shape_is_done_plainly():
    with recorded_steps("tape") as recording:
        found = training(data=Uneven())
    assert same(training(data=Uneven()), found)
    assert recording.replayed == 3 + 3 * 4


def test_a_training_that_goes_on_from_a_checkpoint_is_recorded_anew(tmp_path, monkeypatch):
    plain = training()
    checkpoint = Checkpoint(files=LocalFiles(tmp_path), name="checkpoints/t.ckpt", every=0.0)
    real, calls = Replayed.__call__, iter(range(1000))

    def cut_off(self, *inputs):
        if next(calls) == 2 * 6 + 4:
            raise KeyboardInterrupt
        return real(self, *inputs)

    monkeypatch.setattr(Replayed, "__call__", cut_off)
    with recorded_steps("tape"), pytest.raises(KeyboardInterrupt):
        training(checkpoint=checkpoint)
    found = replayed(lambda: training(checkpoint=checkpoint))
    assert same(plain, found)


def test_a_record_does_nothing_until_it_is_replayed():
    weight, drawn = torch.ones(3), torch.Generator().manual_seed(0)
    tape = Tape([drawn])
    before = drawn.get_state()

    def step():
        return weight.add_(torch.rand(3, generator=drawn)).sum()

    result = tape.record(step)
    assert torch.equal(weight, torch.ones(3))
    assert torch.equal(drawn.get_state(), before)
    tape.replay()
    expected = torch.ones(3) + torch.rand(3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(weight, expected)
    assert torch.equal(result, expected.sum())


def test_a_result_is_not_overwritten_by_the_next_step():
    step = Replayed(lambda x: x * 2, Tape)
    results = [step(torch.tensor([float(i)])) for i in range(6)]
    assert [float(r) for r in results] == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]


def test_tensors_on_two_devices_cannot_be_recorded(caplog):
    elsewhere = torch.empty(2, device="meta")
    step = Replayed(lambda x: elsewhere.copy_(x) is elsewhere and x + 1, Tape)
    results = [step(torch.full((2,), float(i))) for i in range(5)]
    assert [float(r[0]) for r in results] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert "is between devices" in caplog.text


def test_steps_are_plain_unless_they_are_asked_to_be_recorded(monkeypatch):
    assert record_of(CPU) is None
    with recorded_steps("graph"):
        assert record_of(CPU) is None
        assert record_of(torch.device("cuda:0")) is not None
        assert record_of(torch.device("mps")) is None
    with recorded_steps("tape"):
        assert record_of(CPU) is not None
        assert record_of(torch.device("mps")) is None
        with recorded_steps(None):
            assert record_of(CPU) is None
        monkeypatch.setattr("prune_bench.training.replay.ranks", lambda: 2)
        assert record_of(CPU) is None
    assert record_of(CPU) is None


@pytest.mark.parametrize(
    ("setting", "device", "expected"),
    [("on", "cuda:1", True), ("on", "cpu", False), ("on", "mps", False), ("auto", "cuda:0", False)]
    + [("off", device, False) for device in ("cuda:0", "cpu")],
)
def test_steps_are_replayed_on_a_gpu_where_the_setting_says_so(setting, device, expected):
    assert replay_here(setting, torch.device(device)) is expected


def test_a_plain_loop_is_what_is_replayed():
    """SGD by hand, next to a recorded step of the same formula."""
    torch.manual_seed(0)
    weight, by_hand = torch.randn(4, 5, requires_grad=True), None
    by_hand = weight.detach().clone()

    def step(x, y):
        loss = F.cross_entropy(x @ weight.T, y)
        (gradient,) = torch.autograd.grad(loss, weight)
        with torch.no_grad():
            weight.sub_(0.1 * gradient)
        return loss.detach()

    recorded = Replayed(step, Tape)
    for i in range(8):
        x, y = torch.randn(6, 5), torch.arange(6) % 4
        recorded(x, y)
        p = (x @ by_hand.T).softmax(1)
        by_hand -= 0.1 * (p - F.one_hot(y, 4)).T @ x / 6
        torch.testing.assert_close(weight.detach(), by_hand, msg=f"step {i}")
