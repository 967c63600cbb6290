"""SNIP against gradients taken by finite differences, and its rounds against a loop written out."""

import copy

import pytest
import torch
from torch.nn import functional as F

import prune_bench as pb


def numeric_gradient(network, x, y, loss=F.cross_entropy, step=1e-5):
    """dL/dw by central differences, weight by weight, in float64."""
    found = {}
    for name in ("conv.weight", "fc.weight"):
        weight = network.get_parameter(name)
        flat, gradient = weight.data.view(-1), torch.zeros(weight.numel(), dtype=torch.float64)
        for i in range(flat.numel()):
            old = flat[i].item()
            flat[i] = old + step
            up = loss(network(x), y).item()
            flat[i] = old - step
            down = loss(network(x), y).item()
            flat[i] = old
            gradient[i] = (up - down) / (2 * step)
        found[name] = gradient.view_as(weight)
    return found


def top(scores, kept):
    """The ``kept`` largest by a plain sort, as flat booleans."""
    flat = torch.cat([s.flatten() for s in scores.values()]).tolist()
    best = set(sorted(range(len(flat)), key=lambda i: (-flat[i], i))[:kept])
    return [i in best for i in range(len(flat))]


def kept(mask):
    return torch.cat([m.flatten() for m in mask.values()]).tolist()


def test_keeps_the_largest_weight_times_gradient(tiny, batch):
    mask = pb.find_mask(tiny, "snip", density=0.3, data=[batch])
    gradient = numeric_gradient(copy.deepcopy(tiny), *batch)
    scores = {n: (tiny.get_parameter(n).detach() * g).abs() for n, g in gradient.items()}
    assert kept(mask) == top(scores, round(0.3 * 219))


def test_the_score_does_not_depend_on_the_micro_batch(batch):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    network.double()
    whole = pb.find_mask(network, "snip", density=0.2, data=[batch])
    assert pb.find_mask(network, "snip", density=0.2, data=[batch], micro_batch=5) == whole
    assert (
        pb.find_mask(network, "snip", density=0.2, data=[(batch[0][:7], batch[1][:7]), (batch[0][7:], batch[1][7:])])
        == whole
    )


def test_absolute_accumulation_is_the_sum_of_each_micro_batchs_absolute_gradient(tiny, batch):
    x, y = batch
    mask = pb.find_mask(tiny, "snip", density=0.25, data=[batch], micro_batch=6, accumulate="absolute")
    halves = [numeric_gradient(copy.deepcopy(tiny), x[i : i + 6], y[i : i + 6]) for i in (0, 6)]
    scores = {n: tiny.get_parameter(n).detach().abs() * (halves[0][n].abs() + halves[1][n].abs()) for n in halves[0]}
    assert kept(mask) == top(scores, round(0.25 * 219))


def test_iterative_snip_scores_the_network_as_masked_by_then(tiny, batch):
    mask = pb.find_mask(tiny, "snip", density=0.1, data=[batch], steps=3)
    network = copy.deepcopy(tiny)
    alive = [True] * 219
    for t in (1, 2, 3):
        gradient = numeric_gradient(network, *batch)
        scores = {n: (network.get_parameter(n).detach() * g).abs() for n, g in gradient.items()}
        flat = torch.cat([s.flatten() for s in scores.values()])
        flat = torch.where(torch.tensor(alive), flat, -torch.ones_like(flat))
        alive = top({"all": flat}, round(0.1 ** (t / 3) * 219))
        at = 0
        for name in scores:
            weight = network.get_parameter(name).data
            weight *= torch.tensor(alive[at : at + weight.numel()]).view_as(weight)
            at += weight.numel()
    assert kept(mask) == alive


def test_dead_scores_still_give_an_exact_count(tiny, batch):
    with torch.no_grad():
        tiny.fc.weight.zero_()
    assert pb.find_mask(tiny, "snip", density=0.5, data=[batch]).kept == round(0.5 * 219)


def test_scores_that_are_not_finite_are_refused(tiny, batch):
    with torch.no_grad():
        tiny.fc.weight[0, 0] = float("inf")
    with pytest.raises(FloatingPointError, match="not finite"):
        pb.find_mask(tiny, "snip", density=0.5, data=[batch])
