"""find_mask on a network of one's own: nothing outside the answer changes."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import prune_bench as pb
from prune_bench.data import load_data
from prune_bench.errors import ConfigError, DataError

from .conftest import TinyNet

SHORT = {"cts": {"steps": 3}, "cts_kl": {"steps": 3}, "synflow": {"steps": 3}}
RECIPE = pb.Recipe(epochs=1, milestones=())


@pytest.fixture
def network():
    torch.manual_seed(0)
    net = TinyNet(running=True)
    net.add_module("drop", nn.Dropout(0.5))
    net.conv.weight.requires_grad_(False)
    net.fc.weight.grad = torch.ones_like(net.fc.weight)
    net.norm.eval()
    return net


@pytest.fixture
def loader():
    g = torch.Generator().manual_seed(0)
    return DataLoader(TensorDataset(torch.randn(40, 1, 4, 4, generator=g), torch.arange(40) % 4), 10, shuffle=True)


@pytest.mark.parametrize("method", pb.methods())
def test_the_network_and_all_random_state_stay_bit_for_bit(network, loader, method):
    state = copy.deepcopy(network.state_dict())
    modes = [m.training for m in network.modules()]
    draws = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    mask = pb.find_mask(
        network,
        method,
        density=1.0 if method == "dense" else 0.3,
        data=loader,
        recipe=RECIPE,
        **SHORT.get(method, {}),
    )
    assert mask.kept == round((1.0 if method == "dense" else 0.3) * 219)
    assert all(torch.equal(state[n], v) for n, v in network.state_dict().items())
    assert [m.training for m in network.modules()] == modes
    assert [p.requires_grad for p in network.parameters()] == [False, True, True, True, True]
    assert torch.equal(network.fc.weight.grad, torch.ones_like(network.fc.weight))
    assert network.conv.weight.grad is None
    assert torch.equal(torch.get_rng_state(), draws[0])
    assert random.getstate() == draws[1]
    assert (np.random.get_state()[1] == draws[2]).all()


@pytest.mark.parametrize("method", pb.methods())
def test_one_seed_gives_one_ticket_whatever_was_drawn_before(network, loader, method):
    density = 1.0 if method == "dense" else 0.3
    masks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        masks.append(
            pb.find_mask(
                network, method, density=density, data=loader, seed=5, recipe=RECIPE, **SHORT.get(method, {})
            )
        )
    assert masks[0] == masks[1]


@pytest.mark.parametrize("method", ["snip", "grasp", "synflow", "cts_kl"])
def test_the_callers_autocast_and_no_grad_change_no_score(network, loader, method):
    how = {"steps": 5} if method == "cts_kl" else {}
    plain = pb.find_mask(network, method, density=0.3, data=loader, **how)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        inside = pb.find_mask(network, method, density=0.3, data=loader, **how)
    with torch.inference_mode():
        frozen = pb.find_mask(network, method, density=0.3, data=loader, **how)
    assert plain == inside == frozen


def test_takes_a_data_module(network):
    data = load_data("digits", {}, 0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert pb.find_mask(net, "snip", density=0.1, data=data).kept == 64


def test_a_loader_gives_a_class_balanced_sample():
    from prune_bench.data.user import UserData

    x = torch.arange(100.0)[:, None]
    y = torch.cat([torch.zeros(80), torch.ones(20)]).long()
    data = UserData(DataLoader(TensorDataset(x, y), 16), nn.Linear(1, 2), torch.device("cpu"))
    chosen_x, chosen_y = data.balanced(10)
    assert chosen_y.bincount().tolist() == [10, 10]
    assert chosen_x.flatten().tolist() == [*range(10), *range(80, 90)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"method": "snap", "density": 0.1}, "Did you mean 'snip'"),
        ({"method": "snip", "density": 0.0}, "density"),
        ({"method": "snip", "density": 1.5}, "density"),
        ({"method": "dense", "density": 0.5}, "allowed: 1.0"),
        ({"method": "snip", "density": 0.5, "stepz": 2}, "Did you mean 'steps'"),
        ({"method": "snip", "density": 0.5, "steps": 0}, "greater than 0"),
    ],
)
def test_a_wrong_request_is_one_clear_error(network, loader, words, message):
    with pytest.raises(ConfigError, match=message):
        pb.find_mask(network, data=loader, **words)


def test_wrong_data_and_networks_are_told():
    with pytest.raises(DataError, match="no batch"):
        pb.find_mask(nn.Linear(2, 2), "snip", density=0.5, data=[])
    with pytest.raises(DataError, match="pair of tensors"):
        pb.find_mask(nn.Linear(2, 2), "snip", density=0.5, data=[torch.ones(2, 2)])
    with pytest.raises(ValueError, match="nothing in it is prunable"):
        pb.find_mask(nn.ReLU(), "snip", density=0.5, data=[])
