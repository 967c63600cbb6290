"""Concrete ticket search against the enumeration of all masks of a 12-weight problem, and its objectives by hand."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

import prune_bench as pb
from prune_bench.data.user import as_training_data
from prune_bench.mask import prunable_weights
from prune_bench.pruners import pruners
from prune_bench.pruners.concrete import CtsOptions
from prune_bench.pruners.objectives import OBJECTIVES
from prune_bench.randomness import generator
from prune_bench.training import fit

from .pairs import pair_of


class Twelve(nn.Module):
    """Twelve weights, four classes: linear, so that enumeration is cheap."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4, bias=False)

    def forward(self, x):
        return self.fc(x)


@pytest.fixture
def problem():
    torch.manual_seed(3)
    network = Twelve()
    x = torch.randn(64, 3)
    y = network(x).argmax(1)  # the dense network is right, so that pruning costs something
    return network, x, y


def losses(network, x, y, kept, objective):
    w = network.fc.weight.detach()
    dense = (x @ w.T).log_softmax(1)
    found = []
    for keep in itertools.combinations(range(12), kept):
        mask = torch.zeros(12)
        mask[list(keep)] = 1
        logits = x @ (w * mask.view(4, 3)).T
        if objective == "cts":
            value = F.cross_entropy(logits, y)
        else:
            q = logits.log_softmax(1)
            value = (q.exp() * (q - dense)).sum(1).mean()
        found.append((float(value), keep))
    return sorted(found)


@pytest.mark.parametrize("method", ["cts", "cts_kl"])
def test_finds_one_of_the_best_of_all_masks(problem, method):
    network, x, y = problem
    mask = pb.find_mask(network, method, density=0.5, data=[(x, y)], steps=400)
    keep = tuple(torch.nonzero(mask["fc.weight"].flatten()).flatten().tolist())
    ranked = [k for _, k in losses(network, x, y, 6, method)]
    assert len(ranked) == 924
    assert ranked.index(keep) < 9  # among the best 1 % of 924


def plain_search(network, batches, objective, density, steps):
    """The search as the paper writes it, layer by layer: the logits it ends with, by name."""
    weights = {name: w.detach() for name, w in prunable_weights(network).items()}
    count = sum(w.numel() for w in weights.values())
    kept, random = round(density * count), generator(5, "concrete", density)
    logits = {n: torch.full_like(w, math.log(density / (1 - density))).requires_grad_() for n, w in weights.items()}
    adam, balance = torch.optim.Adam(logits.values(), lr=0.1), None
    for step, (x, y) in zip(range(steps), batches):
        adam.param_groups[0]["lr"] = 0.1 if step < 0.88 * steps else 0.01
        u = torch.empty(count, dtype=torch.float64).uniform_(generator=random)
        noise = torch.logit(u).split([w.numel() for w in weights.values()])
        masked = {
            n: weights[n] * torch.sigmoid(logit + e.view_as(logit) / (2 / 3))
            for (n, logit), e in zip(logits.items(), noise)
        }
        sparse = functional_call(network, masked, (x,))
        dense = network(x).detach()
        q, p = sparse.log_softmax(1), dense.log_softmax(1)
        kl = (q.exp() * (q - p)).sum(1).mean()
        value = F.cross_entropy(sparse, y) if objective == "task_loss" else kl
        pulls = torch.autograd.grad(100 * value, list(logits.values()))
        expected = sum(torch.sigmoid(logit).sum() for logit in logits.values())
        sparsity = torch.autograd.grad(expected / (1.1 * kept), list(logits.values()))
        lengths = [torch.cat([g.flatten() for g in gs]).norm() for gs in (pulls, sparsity)]
        wanted = lengths[0] / lengths[1] if expected > 1.1 * kept else torch.zeros(())
        balance = wanted if balance is None else 0.99 * balance + 0.01 * wanted
        for logit, pull, own in zip(logits.values(), pulls, sparsity):
            logit.grad = pull + balance * own
        adam.step()
    return logits


@pytest.mark.parametrize("objective", ["task_loss", "reverse_kl"])
def test_takes_the_steps_of_a_plain_search_layer_by_layer(tiny, objective):
    torch.manual_seed(4)
    batches = [(torch.randn(16, 1, 4, 4).double(), torch.arange(16) % 4) for _ in range(25)]
    options = CtsOptions(objective=objective, steps=25, batch_size=16)
    pruner = pruners["cts"].build(tiny, (0.3,), options, seed=5)
    data = as_training_data(batches, tiny, torch.device("cpu"))
    fit(pruner, pruner.work(data), epochs=1, device=torch.device("cpu"))
    found = pruner._layout.layers(pruner.logits.detach())
    for name, logits in plain_search(tiny, batches, objective, 0.3, 25).items():
        torch.testing.assert_close(found[name], logits.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("control", ["gradbalance", "lagrange"])
@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_no_step_has_the_host_wait_for_the_device(tiny, batch, objective, control, no_host_sync, monkeypatch):
    options = CtsOptions(objective=objective, control=control, steps=4, batch_size=12)
    pruner = pruners["cts"].build(tiny, (0.3,), options)
    monkeypatch.setattr(pruner, "on_train_end", lambda: None)  # so that one more step can be taken
    data = as_training_data([batch], tiny, torch.device("cpu"))
    fit(pruner, pruner.work(data), epochs=1, device=torch.device("cpu"))
    with no_host_sync():
        pruner._descend(batch)
        with pytest.raises(AssertionError, match="waits for the device"):
            float(pruner.logits.sum())


def test_the_ticket_does_not_hang_on_the_scale(problem):
    network, x, y = problem
    tickets = [
        pb.find_mask(network, "cts_kl", density=0.4, data=[(x, y)], steps=100, scale=100 * 2.0**power)
        for power in (0, -12, 12)
    ]
    assert tickets[0] == tickets[1] == tickets[2]


def test_the_expected_density_is_held(problem):
    network, x, y = problem
    pruner = pruners["cts"].build(network, (0.5,), CtsOptions(steps=600))
    data = as_training_data([(x, y)], network, torch.device("cpu"))
    fit(pruner, pruner.work(data), epochs=1, device=torch.device("cpu"))
    assert abs(pruner.curves[-1]["search/excess"]) < 0.15
    assert 0.5 < pruner.summary["search/kept_retention"] <= 1
    assert pruner.dense_epochs(64) == pytest.approx(600)


def test_density_one_keeps_everything_without_a_search(problem):
    network, x, y = problem
    assert pb.find_mask(network, "cts", density=1.0, data=[(x, y)]).kept == 12


def test_kl_divergences_have_the_direction_their_name_says(problem):
    network, x, y = problem
    mask = {"fc.weight": torch.rand(4, 3)}
    pair = pair_of(network, mask)
    w = network.fc.weight.detach()
    p, q = (x @ w.T).softmax(1), (x @ (w * mask["fc.weight"]).T).softmax(1)
    reverse = (q * (q / p).log()).sum(1).mean()
    forward = (p * (p / q).log()).sum(1).mean()
    assert float(OBJECTIVES["reverse_kl"].value(pair, (x, y))) == pytest.approx(float(reverse), rel=1e-4)
    assert float(OBJECTIVES["forward_kl"].value(pair, (x, y))) == pytest.approx(float(forward), rel=1e-4)


def test_loss_change_and_gradient_norm_by_hand(problem):
    network, x, y = problem
    m = torch.rand(4, 3)
    w = network.fc.weight.detach()
    pair = pair_of(network, {"fc.weight": m})
    sparse, dense = F.cross_entropy(x @ (w * m).T, y), F.cross_entropy(x @ w.T, y)
    assert float(OBJECTIVES["loss_change"].value(pair, (x, y))) == pytest.approx(
        float(abs(sparse / dense - 1)), rel=1e-4
    )
    gradient = m * (((x @ (w * m).T).softmax(1) - F.one_hot(y, 4)).T @ x) / 64
    found = OBJECTIVES["gradient_norm"].value(pair, (x, y)).detach()
    assert float(found) == pytest.approx(-float(gradient.norm()), rel=1e-4)


@pytest.mark.parametrize("name", ["feature_mse", "gradient_match"])
def test_matching_objectives_are_zero_for_the_full_mask_and_above_it_otherwise(tiny, batch, name):
    weights = {n: tiny.get_parameter(n).detach() for n in ("conv.weight", "fc.weight")}
    ones = {n: torch.ones_like(w) for n, w in weights.items()}
    torch.manual_seed(0)
    some = {n: torch.rand_like(w) for n, w in weights.items()}
    value = OBJECTIVES[name].value
    assert float(value(pair_of(tiny, ones), batch).detach()) == pytest.approx(0, abs=1e-12)
    assert float(value(pair_of(tiny, some), batch).detach()) > 1e-3


@pytest.mark.parametrize("name", list(OBJECTIVES))
@pytest.mark.parametrize("control", ["gradbalance", "lagrange"])
def test_every_objective_runs_and_keeps_the_exact_count(tiny, batch, name, control):
    mask = pb.find_mask(tiny, "cts", density=0.2, data=[batch], objective=name, control=control, steps=5)
    assert mask.kept == round(0.2 * 219)
