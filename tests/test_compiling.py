"""Compiled networks give what they give uncompiled, up to the order of sums: in float64 to 1e-9."""

import shutil

import pytest
import torch

import prune_bench as pb
from prune_bench.compiling import compiling
from prune_bench.mask import Mask
from prune_bench.packing import pack_data
from prune_bench.pruners import pruners
from prune_bench.training import fit, train_lanes

from .test_packing import Float64, random_mask, resnet

CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU"),
]


@pytest.fixture
def compiled(monkeypatch):
    """Counts the networks that were compiled."""
    real, made = torch.nn.Module.compile, []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: made.append(self) or real(self, **how))
    return made


def trained(networks, data):
    recipe = pb.Recipe(epochs=2, batch_size=32, milestones=(1,))
    masks = [random_mask(network, seed) for seed, network in enumerate(networks)]
    return train_lanes(networks, masks, recipe, data, device=CPU)


def test_a_training(compiled):
    networks, data = [resnet(0), resnet(1)], pack_data([Float64(0), Float64(1)])
    plain = trained(networks, data)
    assert not compiled
    with compiling(True):
        found = trained(networks, data)
    assert len(compiled) == 1
    for ours, theirs in zip(found, plain):
        assert [row.keys() for row in ours.curves] == [row.keys() for row in theirs.curves]
        for one, other in zip(ours.network.parameters(), theirs.network.parameters()):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def searched(networks):
    entry, data = pruners["cts_kl"], Float64(0)
    options = entry.options(steps=12, batch_size=32)
    made = [entry.build(n, (d,), options, seed=s) for s, (n, d) in enumerate(zip(networks, (0.5, 0.2, 0.2)))]
    made[0].join(made[1:])
    fit(made[0], made[0].work(pack_data([data] * 3)), epochs=1, device=CPU)
    return made


def test_a_search_whose_lanes_share_a_dense_network(compiled):
    networks = [resnet(0), resnet(0), resnet(1)]
    plain = searched(networks)
    with compiling(True):
        found = searched(networks)
    assert len(compiled) == 2  # the sparse networks and the two dense ones
    for ours, theirs in zip(found, plain):
        assert ours.tickets() == theirs.tickets()
        assert ours.curves[-1] == pytest.approx(theirs.curves[-1], rel=1e-9)


def test_nothing_is_compiled_once_the_sweep_that_asked_is_over(compiled):
    with compiling(True):
        pass
    network = resnet(0)
    train_lanes([network], [Mask.full(network)], pb.Recipe(epochs=1, batch_size=32), Float64(0), device=CPU)
    assert not compiled
