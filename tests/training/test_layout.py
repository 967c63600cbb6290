"""Memory layouts: channels-last only where a trial shows that outputs and gradients stay, and nothing is touched."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import prune_bench as pb
from prune_bench.mask import Mask
from prune_bench.models import build_model, models
from prune_bench.packing import pack, pack_data
from prune_bench.randomness import generator
from prune_bench.training import train_lanes
from prune_bench.training.layout import lay_out_, memory_layout

CPU, LAST, USUAL = torch.device("cpu"), torch.channels_last, torch.contiguous_format
METHODS = {"cts": {"steps": 4}, "cts_kl": {"steps": 4}, "ltr": {"epochs": 1}, "snip": {}, "magnitude": {}}


class Views(nn.Module):
    """The style of PyTorch's tutorial: ``view`` after a convolution."""

    shape = (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(144, 4)

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).view(len(x), -1))


class Strides(Views):
    """It runs in any layout, and means another thing in each: ``as_strided`` reads memory as it is."""

    def forward(self, x):
        y = F.relu(self.conv(x))
        return self.fc(y.as_strided((len(x), 144), (144, 1)))


class ThreeD(nn.Module):
    shape = (1, 4, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv, self.flat, self.fc = nn.Conv3d(1, 3, 3, stride=2), nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(F.relu(self.flat(F.relu(self.conv(x)).flatten(2, 3))).mean((2, 3)))


class OneD(nn.Module):
    shape = (2, 12)

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv1d(2, 4, 3), nn.Linear(40, 4)

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).view(len(x), -1))


class NoConvolution(nn.Module):
    shape = (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.fc, self.scale = nn.Linear(64, 4), nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return self.scale * self.fc(x.view(len(x), -1))


class OwnKernel(nn.Module):
    """A parameter of four dimensions that is no convolution's, read as it lies in memory."""

    shape = (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.kernel, self.fc = nn.Parameter(torch.randn(4, 2, 3, 3)), nn.Linear(64, 4)

    def forward(self, x):
        return self.fc(x.view(len(x), -1)) + self.kernel.view(4, 18).sum(1)


NETWORKS = [Views, Strides, ThreeD, OneD, NoConvolution, OwnKernel]


def made(kind):
    torch.manual_seed(0)
    return kind()


def batch_of(network, samples=16):
    g = torch.Generator().manual_seed(1)
    return torch.randn(samples, *network.shape, generator=g), torch.arange(samples) % 4


class Batches:
    """Three batches an epoch, for networks of any input."""

    num_classes, samples = 4, 48

    def __init__(self, network):
        self.batch, self.input_shape = batch_of(network), network.shape

    def steps_per_epoch(self, batch_size):
        return 3

    def epoch(self, epoch, batch_size, *, augment):
        return iter([self.batch] * 3)

    def evaluation(self, split, batch_size):
        return iter([])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_method_runs_on_networks_that_need_the_usual_layout(kind, method):
    network = made(kind)
    recipe = pb.Recipe(epochs=2, milestones=(1,), rewind_epoch=1)
    before = copy.deepcopy(network.state_dict())
    mask = pb.find_mask(network, method, density=0.5, data=[batch_of(network)] * 2, recipe=recipe, **METHODS[method])
    assert mask.kept == round(0.5 * mask.total)
    assert all(torch.equal(before[n], v) for n, v in network.state_dict().items())


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_so_does_a_dense_training_and_does_what_a_plain_loop_does(kind, precision):
    network = made(kind)
    recipe = pb.Recipe(epochs=2, milestones=(1,), clip_norm=None, precision=precision)
    (trained,) = train_lanes([network], [Mask.full(network)], recipe, Batches(network), device=CPU)
    plain, (x, y) = copy.deepcopy(network), batch_of(network)
    sgd = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    for epoch in range(2):
        sgd.param_groups[0]["lr"] = 0.1 * 0.1**epoch
        for _ in range(3):
            sgd.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                outputs = plain(x)
            F.cross_entropy(outputs.float(), y).backward()
            sgd.step()
    for (name, ours), theirs in zip(trained.network.named_parameters(), plain.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)


def test_networks_with_views_are_trained_side_by_side():
    networks = [made(Views) for _ in range(3)]
    lanes = train_lanes(
        networks,
        [Mask.full(n) for n in networks],
        pb.Recipe(epochs=1),
        pack_data([Batches(n) for n in networks]),
        device=CPU,
    )
    assert [lane.diverged for lane in lanes] == [None] * 3


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_trial_sees_what_does_not_hold(kind):
    network = made(kind)
    expected = LAST if kind is ThreeD else USUAL  # its convolution of two dimensions gains from it
    assert memory_layout(network, batch_of(network)[0], precision="float32", lanes=1) is expected


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("name", [n for n in models if n not in ("lenet300_100", "resnet18", "resnet50")])
def test_networks_of_ours_are_channels_last_on_a_cpu(name, lanes):
    options = {"in_channels": 3, "image_size": 32, "num_classes": 4}
    network = pack([build_model(name, {"width": 4}, generator=generator(s, "t"), **options) for s in range(lanes)])
    x = torch.randn(8, 3 * lanes, 32, 32)
    assert memory_layout(network, x, precision="float32", lanes=lanes) is LAST
    expected = copy.deepcopy(network).to(memory_format=LAST)
    lay_out_(network, LAST)
    for ours, theirs in zip(
        [*network.parameters(), *network.buffers()], [*expected.parameters(), *expected.buffers()]
    ):
        assert ours.stride() == theirs.stride()


def test_networks_that_draw_or_are_large_in_number_or_not_float_keep_their_layout_too():
    dropped = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Dropout2d(0.5), nn.Flatten(), nn.Linear(108, 4)).double()
    assert memory_layout(dropped, torch.randn(4, 1, 8, 8).double(), precision="float32", lanes=1) is LAST
    text = nn.Sequential(
        nn.Embedding(9, 6), nn.Unflatten(1, (1, 5)), nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(36, 4)
    )
    assert memory_layout(text, torch.randint(9, (4, 5)), precision="float32", lanes=1) is LAST


def test_a_network_that_only_knows_its_own_dtype_is_tried_in_that():
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 3)

        def forward(self, x):
            assert x.dtype == torch.float32
            return self.conv(x).flatten(1)

    assert memory_layout(Single(), torch.randn(4, 1, 8, 8), precision="float32", lanes=1) is LAST


class OnGpu:
    """A batch that says it is on a GPU, and is tried on the CPU."""

    device = torch.device("cuda:0")

    def __getitem__(self, rows):
        return torch.randn(8, 1, 8, 8)[rows]


@pytest.mark.parametrize(
    ("precision", "lanes", "expected"),
    [("float32", 1, USUAL), ("tf32", 1, LAST), ("bfloat16", 1, LAST), ("bfloat16", 2, USUAL), ("float32", 2, USUAL)],
)
def test_a_gpu_takes_channels_last_for_tensor_cores_and_single_networks_only(precision, lanes, expected):
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(108, 4))
    assert memory_layout(network, OnGpu(), precision=precision, lanes=lanes) is expected
    if expected is LAST:
        assert memory_layout(made(Views), OnGpu(), precision=precision, lanes=lanes) is USUAL


@pytest.mark.parametrize("training", [True, False])
def test_the_trial_leaves_network_and_generators_as_they_were(training):
    class Draws(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.drop = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5)
            self.conv.bias.requires_grad_(False)

        def forward(self, x):
            return (
                self.drop(self.norm(self.conv(x))).mean((2, 3)) * random.random() * np.random.rand() * torch.rand(1)
            )

    torch.manual_seed(0)
    network = Draws().train(training)
    network(torch.randn(4, 1, 8, 8)).sum().backward()
    network.drop.train()
    before = {n: (v.clone(), v.stride()) for n, v in network.state_dict().items()}
    gradients = {n: None if p.grad is None else p.grad.clone() for n, p in network.named_parameters()}
    needed = {n: p.requires_grad for n, p in network.named_parameters()}
    modes = {n: m.training for n, m in network.named_modules()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]
    assert (
        memory_layout(network, torch.randn(4, 1, 8, 8, generator=generator(0, "x")), precision="float32", lanes=1)
        is LAST
    )
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]) == states[1:]
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name][0])
        assert value.stride() == before[name][1]
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad is needed[name]
        assert (parameter.grad is None) == (gradients[name] is None)
        assert parameter.grad is None or torch.equal(parameter.grad, gradients[name])
    assert {n: m.training for n, m in network.named_modules()} == modes
