"""Networks side by side against each by itself, in float64 where only the order of sums can differ."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import prune_bench as pb
from prune_bench.data import load_data
from prune_bench.mask import Mask, prunable_weights
from prune_bench.models import build_model
from prune_bench.packing import PackedData, can_pack, lane_outputs, pack, pack_data, unpack_
from prune_bench.pruners import pruners
from prune_bench.pruners.objectives import OBJECTIVES
from prune_bench.randomness import generator
from prune_bench.training import evaluate, fit, train, train_lanes
from prune_bench.training.descent import clip_lanes_

from .pruners.pairs import pair_of

CPU = torch.device("cpu")
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
RECIPE = pb.Recipe(epochs=2, batch_size=32, milestones=(1,), weight_decay=1e-2, clip_norm=0.5)
MODELS = {
    "resnet8": {"width": 4},
    "vgg11": {"width": 4},
    "lenet300_100": {},
    "resnet18": {},
}


class Float64:
    """A data set whose images are float64."""

    def __init__(self, seed):
        options = {
            "samples": 96,
            "test_samples": 48,
            "image_size": 8,
            "channels": 1,
            "classes": 4,
            "validation": 0.25,
        }
        self._data = load_data("synthetic", options, seed)
        self.num_classes, self.input_shape, self.samples = 4, (1, 8, 8), self._data.samples
        self.steps_per_epoch = self._data.steps_per_epoch

    def epoch(self, *args, **how):
        return ((x.double(), y) for x, y in self._data.epoch(*args, **how))

    def evaluation(self, *args):
        return ((x.double(), y) for x, y in self._data.evaluation(*args))


def resnet(seed):
    random = generator(seed, "lane")
    return build_model("resnet8", {"width": 4}, in_channels=1, image_size=8, num_classes=4, generator=random).double()


def random_mask(network, seed, density=0.4):
    g = torch.Generator().manual_seed(seed)
    return Mask({n: torch.rand(w.shape, generator=g) < density for n, w in prunable_weights(network).items()})


@pytest.fixture
def lanes():
    return [resnet(seed) for seed in (0, 1, 2)]


@pytest.mark.parametrize("model", MODELS)
def test_the_models_can_be_packed_and_come_out_as_they_went_in(model):
    def build(seed):
        random = generator(seed, "pack")
        return build_model(
            model, MODELS[model], in_channels=3, image_size=32, num_classes=5, generator=random
        ).double()

    networks = [build(seed) for seed in (0, 1, 2)]
    before = copy.deepcopy([network.state_dict() for network in networks])
    assert can_pack(networks[0], (3, 32, 32))
    xs = [torch.randn(4, 3, 32, 32, dtype=torch.float64) for _ in networks]
    packed = pack(networks)
    together = lane_outputs(packed(torch.cat(xs, 1)), 3)
    for x, network, output in zip(xs, networks, together):
        torch.testing.assert_close(output, network(x), **CLOSE)
    unpack_(pack(networks), networks)
    for network, state in zip(networks, before):
        assert all(
            torch.equal(value, state[name]) for name, value in network.state_dict().items() if "run" not in name
        )


class Shared(nn.Module):
    """One layer used twice, running statistics, and a grouped convolution."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 4, 3, groups=1), nn.BatchNorm2d(4)
        self.again = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight

    def forward(self, x):
        x = F.relu(self.again(self.again(self.bn(self.stem(x)))))
        return self.two(self.one(x.mean((2, 3))))


def test_shared_weights_groups_and_running_statistics_are_packed_as_they_are():
    assert can_pack(Shared(), (1, 8, 8))
    packed = pack([Shared(), Shared()])
    assert packed.one.weight is packed.two.weight


class Mixing(nn.Module):
    """A forward pass that mixes channels outside its layers."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, 4)

    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        return self.fc(x - x.mean(1, keepdim=True))


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.LayerNorm(8), nn.Linear(8, 4)),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(), nn.Linear(8, 4)),
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 8), nn.PReLU(8), nn.Linear(8, 4)),
        Mixing(),
    ],
    ids=["LayerNorm", "Dropout", "PReLU", "mixes channels"],
)
def test_what_would_let_lanes_meet_or_draw_at_random_is_not_packed(network):
    assert not can_pack(network, (1, 8, 8))


def test_lanes_train_as_each_would_alone(lanes):
    data = [Float64(0), Float64(1), Float64(1)]
    data[2] = data[1]  # two lanes of one seed
    masks = [random_mask(network, seed) for seed, network in enumerate(lanes)]
    together = train_lanes(lanes, masks, RECIPE, pack_data(data), device=CPU)
    for network, mask, own, found in zip(lanes, masks, data, together):
        alone = train(network, mask, RECIPE, own, device=CPU)
        assert [row.keys() for row in found.curves] == [row.keys() for row in alone.curves]
        assert "validation/accuracy" in found.curves[0]
        for ours, theirs in zip(found.curves, alone.curves):
            assert ours == pytest.approx(theirs, rel=1e-6)  # losses are kept in float32
        for (name, ours), theirs in zip(found.network.named_parameters(), alone.network.parameters()):
            torch.testing.assert_close(ours, theirs, **CLOSE, msg=name)
        for name, weight in prunable_weights(found.network).items():
            assert bool((weight[~mask[name]] == 0).all())
        test = list(own.evaluation("test", 20))
        assert evaluate(found.network, iter(test)) == pytest.approx(evaluate(alone.network, iter(test)))


def test_a_diverging_neighbour_harms_nobody(lanes):
    data, masks = PackedData([Float64(0)] * 3), [Mask.full(network) for network in lanes]
    sound = train_lanes(lanes, masks, RECIPE, data, device=CPU)
    with torch.no_grad():
        lanes[1].fc.weight[0, 0] = float("nan")
    found = train_lanes(lanes, masks, RECIPE, data, device=CPU)
    assert [lane.diverged for lane in found] == [None, 0, None]
    assert [len(lane.curves) for lane in found] == [2, 1, 2]
    for lane in (0, 2):
        for ours, theirs in zip(found[lane].network.parameters(), sound[lane].network.parameters()):
            assert torch.equal(ours, theirs)


def test_gradients_are_clipped_lane_by_lane_as_torch_clips_them():
    torch.manual_seed(0)
    sizes, lanes = [0.1, 1.0, 50.0], []
    for size in sizes:
        lanes.append([nn.Parameter(torch.zeros(4, 3, dtype=torch.float64)), nn.Parameter(torch.zeros(4).double())])
        for p in lanes[-1]:
            p.grad = size * torch.randn_like(p)
    packed = [torch.cat([lane[i].grad for lane in lanes]) for i in range(2)]
    clip_lanes_(packed, 3, 2.0)
    for i, lane in enumerate(lanes):
        nn.utils.clip_grad_norm_(lane, 2.0)
        for p, whole in zip(lane, packed):
            torch.testing.assert_close(whole.chunk(3)[i], p.grad)


def search(method, networks, data, densities, options, join):
    entry = pruners[method]
    made = [
        entry.build(n, (d,), entry.options(**options), recipe=RECIPE, seed=s)
        for s, (n, d) in enumerate(zip(networks, densities))
    ]
    if join:
        made[0].join(made[1:])
        fit(made[0], made[0].work(pack_data(data)), epochs=1, device=CPU)
    else:
        for pruner, own in zip(made, data):
            fit(pruner, pruner.work(own), epochs=1, device=CPU)
    return made


@pytest.mark.parametrize(
    ("method", "densities", "options"),
    [
        ("cts", (0.5, 0.3, 0.1), {"steps": 12, "batch_size": 32}),
        ("cts_kl", (0.5, 0.3, 0.1), {"steps": 12, "batch_size": 32, "control": "lagrange"}),
        ("ltr", (0.64, 0.64, 0.64), {}),
    ],
)
def test_searches_side_by_side_find_what_each_finds_alone(lanes, method, densities, options):
    data = [Float64(seed) for seed in (0, 1, 2)]
    together = search(method, lanes, data, densities, options, join=True)
    alone = search(method, lanes, data, densities, options, join=False)
    for ours, theirs in zip(together, alone):
        assert ours.tickets() == theirs.tickets()
        assert ours.dense_epochs(72) == theirs.dense_epochs(72)
        assert ours.summary == pytest.approx(theirs.summary, rel=1e-8)
        assert len(ours.curves) == len(theirs.curves)
        for row, expected in zip(ours.curves, theirs.curves):
            assert row == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_searches_of_one_network_share_its_dense_self_and_find_what_each_finds_alone(lanes, objective):
    networks, first, second = [lanes[0], lanes[0], lanes[1], lanes[0]], Float64(0), Float64(1)
    data = [first, first, first, second]
    options = {"steps": 8, "batch_size": 32, "objective": objective}
    together = search("cts", networks, data, (0.5, 0.2, 0.2, 0.2), options, join=True)
    alone = search("cts", networks, data, (0.5, 0.2, 0.2, 0.2), options, join=False)
    # The last looks at other batches: its dense self is the first's network, but not its outputs.
    assert together[0]._against.places.tolist() == [0, 0, 1, 2]
    for ours, theirs in zip(together, alone):
        assert ours.tickets() == theirs.tickets()
        for row, expected in zip(ours.curves, theirs.curves, strict=True):
            assert row == pytest.approx(expected, rel=1e-8)


def test_no_step_of_lanes_that_share_a_dense_network_has_the_host_wait(lanes, no_host_sync, monkeypatch):
    # So that one more step can be taken.
    monkeypatch.setattr("prune_bench.pruners.concrete.ConcreteTicketSearch.on_train_end", lambda self: None)
    data = Float64(0)
    lanes = [lanes[0], lanes[0], lanes[1]]
    made = search("cts_kl", lanes, [data] * 3, (0.5, 0.2, 0.2), {"steps": 3, "batch_size": 32}, join=True)
    batch = next(pack_data([data] * 3).epoch(0, 32, augment=False))
    with no_host_sync():
        made[0]._search_step(*batch)
        for read in (lambda x: x.tolist(), lambda x: x[x > 0], lambda x: x.cpu()):
            with pytest.raises(AssertionError, match="waits for the device"):
                read(made[0].logits.detach())


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_an_objective_gives_each_lane_its_own_value(lanes, name):
    masks = [{n: torch.rand_like(w) for n, w in prunable_weights(lane).items()} for lane in lanes]
    batches = [next(Float64(seed).epoch(0, 16, augment=False)) for seed in (0, 1, 2)]

    alone = [OBJECTIVES[name].value(pair_of(n, m), b) for n, m, b in zip(lanes, masks, batches)]
    together = {n: torch.cat([mask[n] for mask in masks]) for n in masks[0]}
    x, y = torch.cat([x for x, _ in batches], 1), torch.stack([y for _, y in batches])
    torch.testing.assert_close(
        OBJECTIVES[name].value(pair_of(pack(lanes), together, 3), (x, y)), torch.cat(alone), **CLOSE
    )
