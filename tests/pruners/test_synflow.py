"""SynFlow against brute force, its conservation law, and the defects found elsewhere."""

import copy

import pytest
import torch
from torch import nn

import prune_bench as pb
from prune_bench.models import build_model
from prune_bench.pruners import pruners
from prune_bench.pruners.synflow import SynFlowOptions

from .test_snip import kept, top


def scores(network, shape):
    pruner = pruners["synflow"].build(network, (0.5,), SynFlowOptions())
    ones = torch.ones(1, *shape, dtype=torch.float64)
    return pruner.score([(ones, torch.zeros(1, dtype=torch.long))])


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False), nn.ReLU(),
                         nn.Linear(4, 3, bias=False))  # fmt: skip


def path_scores(layers):
    """Sum over all input-output paths through a weight of the product of absolute weights, path by path."""
    a, b, c = [w.abs().double() for w in layers]
    s = [torch.zeros_like(a), torch.zeros_like(b), torch.zeros_like(c)]
    for i in range(a.shape[1]):
        for j in range(a.shape[0]):
            for k in range(b.shape[0]):
                for o in range(c.shape[0]):
                    product = a[j, i] * b[k, j] * c[o, k]
                    s[0][j, i] += product
                    s[1][k, j] += product
                    s[2][o, k] += product
    return s


def test_the_score_is_the_sum_over_paths():
    network = mlp()
    found = list(scores(network, (5,)).values())
    expected = path_scores([network[i].weight.detach() for i in (0, 2, 4)])
    for f, e in zip(found, expected):
        torch.testing.assert_close(f, e, rtol=1e-12, atol=0)


def test_100_rounds_follow_the_exponential_schedule_on_the_masked_network():
    network = mlp()
    weights = [network[i].weight.detach().clone() for i in (0, 2, 4)]
    total = sum(w.numel() for w in weights)
    alive = torch.ones(total, dtype=torch.bool)
    for t in range(1, 101):
        masked, at = [], 0
        for w in weights:
            masked.append(w * alive[at : at + w.numel()].view_as(w))
            at += w.numel()
        flat = torch.cat([s.flatten() for s in path_scores(masked)])
        flat = torch.where(alive, flat, -torch.ones_like(flat))
        alive = torch.tensor(top({"all": flat}, round(0.3 ** (t / 100) * total)))
    assert (
        kept(pb.find_mask(network, "synflow", density=0.3, data=[(torch.ones(1, 5), torch.zeros(1).long())]))
        == alive.tolist()
    )


def test_layer_sums_are_conserved_without_normalisation():
    network = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 3, 3, bias=False), nn.ReLU(),
                            nn.Flatten(), nn.Linear(3 * 4, 5, bias=False))  # fmt: skip
    sums = [float(s.sum()) for s in scores(network, (2, 6, 6)).values()]
    assert sums == pytest.approx([sums[0]] * 3, rel=1e-12)


def test_normalisation_is_its_affine_part_so_scores_are_never_negative():
    network = build_model("resnet20", {"width": 4}, in_channels=3, image_size=8, num_classes=10,
                          generator=torch.Generator().manual_seed(0))  # fmt: skip
    assert all(bool((s >= 0).all()) for s in scores(network, (3, 8, 8)).values())


def test_depth_does_not_overflow():
    network = build_model("resnet56", {"width": 16}, in_channels=3, image_size=16, num_classes=10,
                          generator=torch.Generator().manual_seed(0))  # fmt: skip
    found = scores(network, (3, 16, 16))
    assert all(bool(torch.isfinite(s).all()) for s in found.values())
    assert max(float(s.max()) for s in found.values()) > torch.finfo(torch.float32).max


def test_signs_come_back():
    network = mlp()
    before = copy.deepcopy(network.state_dict())
    pb.find_mask(network, "synflow", density=0.3, data=[(torch.ones(1, 5), torch.zeros(1).long())])
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert bool((network[0].weight < 0).any())
