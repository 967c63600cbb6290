"""GraSP's Hessian product against finite differences of the gradient and against an analytic Hessian."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

import prune_bench as pb
from tests.pruners.test_snip import kept, top

T = 200.0


def gradient(network, x, y):
    weights = [network.get_parameter(n) for n in ("conv.weight", "fc.weight")]
    flat = torch.autograd.grad(F.cross_entropy(network(x) / T, y), weights)
    return torch.cat([g.flatten() for g in flat])


def moved(network, direction):
    other, at = copy.deepcopy(network), 0
    for name in ("conv.weight", "fc.weight"):
        weight = other.get_parameter(name).data
        weight += direction[at : at + weight.numel()].view_as(weight)
        at += weight.numel()
    return other


def test_removes_the_largest_minus_w_hg_with_hg_by_finite_differences(tiny, batch):
    g = gradient(tiny, *batch)
    step = 1e-6 / g.norm()  # so small that no ReLU changes sides
    product = (gradient(moved(tiny, step * g), *batch) - gradient(moved(tiny, -step * g), *batch)) / (2 * step)
    w = torch.cat([tiny.conv.weight.detach().flatten(), tiny.fc.weight.detach().flatten()])
    score = -w * product
    kept_smallest = top({"all": -score}, round(0.3 * 219))
    mask = kept(pb.find_mask(tiny, "grasp", density=0.3, data=[batch]))
    assert sum(a != b for a, b in zip(mask, kept_smallest)) <= 2  # a pair at the border may differ by rounding
    by_magnitude = kept(pb.find_mask(tiny, "grasp", density=0.3, data=[batch], by_magnitude=True))
    assert sum(a != b for a, b in zip(by_magnitude, top({"all": score.abs()}, round(0.3 * 219)))) <= 2


def test_softmax_regression_has_the_hessian_of_the_textbook():
    torch.manual_seed(0)
    x, y, network = torch.randn(9, 3).double(), torch.arange(9) % 2, nn.Linear(3, 2, bias=False).double()
    w = network.weight.detach()
    p = torch.softmax(x @ w.T / T, 1)
    g = ((p - F.one_hot(y, 2)).T @ x) / (9 * T)
    # H is the mean over samples of (diag(p) - p p^T) kron x x^T, over T squared.
    blocks = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    hessian = torch.einsum("nab,ni,nj->aibj", blocks, x, x).reshape(6, 6) / (9 * T * T)
    score = -(w.flatten() * (hessian @ g.flatten()))
    mask = pb.find_mask(network, "grasp", density=0.5, data=[(x, y)])
    assert kept(mask) == top({"all": -score}, 3)


def test_micro_batches_add_up_before_any_absolute_value(batch):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 4)).double()
    whole = pb.find_mask(network, "grasp", density=0.2, data=[batch])
    assert pb.find_mask(network, "grasp", density=0.2, data=[batch], micro_batch=5) == whole
