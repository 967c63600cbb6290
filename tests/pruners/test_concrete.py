"""Concrete ticket search against the enumeration of all masks of a 12-weight problem, and its objectives by hand."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

import prune_bench as pb
from prune_bench.config import make_experiment
from prune_bench.data.user import as_training_data
from prune_bench.errors import ConfigError
from prune_bench.mask import prunable_weights
from prune_bench.packing import pack
from prune_bench.pruners import pruners
from prune_bench.pruners.concrete import CtsOptions
from prune_bench.pruners.objectives import OBJECTIVES, objective_of
from prune_bench.randomness import generator
from prune_bench.sweep.cells import check
from prune_bench.training import fit
from prune_bench.training.replay import recorded_steps
from tests.test_packing import Float64, resnet

from .pairs import pair_of

CPU = torch.device("cpu")


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
        pruner._search_step(*batch)
        with pytest.raises(AssertionError, match="waits for the device"):
            float(pruner.logits.sum())


def published_search(network, batches, density, steps, *, draws, control, epochs_before_decay):
    """What several devices do: each draws a mask, normalises its own images and takes a norm; all are averaged."""
    w = torch.cat([weight.detach().flatten() for weight in prunable_weights(network).values()])
    shapes = {name: weight.shape for name, weight in prunable_weights(network).items()}
    kept, random = round(density * len(w)), generator(5, "concrete", density)
    alpha = torch.full_like(w, math.log(density / (1 - density)))
    m, v, balance, multiplier, rate, slope = torch.zeros_like(w), torch.zeros_like(w), None, 0.0, 0.15, 1e-3
    for step, (x, y) in zip(range(steps), batches):
        if step == epochs_before_decay:
            rate, slope = rate / 10, slope / 10
        pulls, lengths = [], []
        for images, labels in zip(x.chunk(draws), y.chunk(draws)):
            noise = torch.logit(torch.empty(len(w), dtype=torch.float64).uniform_(generator=random))
            leaf = alpha.clone().requires_grad_()
            pieces = (w * torch.sigmoid(leaf + 1.5 * noise)).split([shape.numel() for shape in shapes.values()])
            layers = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces)}
            loss = 100 * F.cross_entropy(functional_call(network, layers, (images,)), labels)
            (pull,) = torch.autograd.grad(loss, leaf)
            pulls.append(pull), lengths.append(pull.norm())
        p = torch.sigmoid(alpha)
        target = kept * (1.1 if control == "gradbalance" else 1.0)
        e, sparsity = float(p.sum() / target - 1), p * (1 - p) / target
        if control == "gradbalance":
            wanted = sum(float(length) for length in lengths) / draws / float(sparsity.norm()) if e > 0 else 0.0
            balance = wanted if balance is None else 0.99 * balance + 0.01 * wanted
            gradient = sum(pulls) / draws + balance * sparsity
        else:
            gradient = sum(pulls) / draws + multiplier * 100 * sparsity
            multiplier += slope * 100 * e
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        unbiased = (m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1)))
        alpha = alpha - rate * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
    return alpha


@pytest.mark.parametrize("control", ["gradbalance", "lagrange"])
@pytest.mark.parametrize(("draws", "decay_at", "before"), [(1, 1.0, None), (4, 0.8, 24), (8, 1.0, None)])
def test_draws_are_those_of_a_loop_over_devices(tiny, control, draws, decay_at, before):
    torch.manual_seed(4)
    batches = [(torch.randn(16, 1, 4, 4).double(), torch.arange(16) % 4) for _ in range(30)]
    options = CtsOptions(
        steps=30, batch_size=16, draws=draws, lr=0.15, decay_at=decay_at, control=control, multiplier="free"
    )
    pruner = pruners["cts"].build(tiny, (0.3,), options, seed=5)
    fit(pruner, pruner.work(as_training_data(batches, tiny, CPU)), epochs=1, device=CPU)
    wanted = published_search(tiny, batches, 0.3, 30, draws=draws, control=control, epochs_before_decay=before)
    torch.testing.assert_close(pruner.logits.detach()[0], wanted, rtol=1e-9, atol=1e-9)
    assert pruner.dense_epochs(16) == pytest.approx(30)


@pytest.mark.parametrize("control", ["gradbalance", "lagrange"])
def test_draws_that_are_replayed_have_the_same_bits(tiny, control):
    torch.manual_seed(4)
    batches = [(torch.randn(16, 1, 4, 4).double(), torch.arange(16) % 4) for _ in range(20)]
    options = CtsOptions(steps=20, batch_size=16, draws=4, decay_at=0.5, control=control, multiplier="free")
    found = []
    for kind in (None, "tape"):
        pruner = pruners["cts"].build(tiny, (0.3,), options, seed=5)
        with recorded_steps(kind) as recording:
            fit(pruner, pruner.work(as_training_data(batches, tiny, CPU)), epochs=1, device=CPU)
        found.append(pruner.logits.detach())
    assert recording.replayed > 10 and not recording.refused
    assert torch.equal(*found)


def test_more_draws_than_a_batch_can_be_parted_into_are_refused(tiny, batch):
    with pytest.raises(ConfigError, match="draws: 8 is too many for batches of 12 images"):
        pb.find_mask(tiny, "cts", density=0.3, data=[batch], steps=2, draws=8)
    said = {"name": "x", "methods": {"cts": {"batch_size": 64, "draws": 3}}}
    with pytest.raises(ConfigError, match=r"methods\.cts\.draws.*does not divide batch_size=64"):
        check(make_experiment(said))
    with pytest.raises(ConfigError, match=r"methods\.cts\.draws.*devices\.per_cell=2"):
        check(make_experiment(said, ["methods.cts.draws=4", "devices.per_cell=2"]))


def test_feature_mse_with_the_deviation_of_a_sample(tiny, batch):
    weights = prunable_weights(tiny)
    masks = {n: torch.rand(w.shape, generator=torch.Generator().manual_seed(0)).double() for n, w in weights.items()}
    sparse = copy.deepcopy(tiny)
    with torch.no_grad():
        for name, weight in prunable_weights(sparse).items():
            weight.mul_(masks[name])
        features = []
        for network in (sparse, tiny):
            x, _ = batch
            relu = network.relu(network.norm(network.conv(x))).flatten(1)
            features.append((relu, network.fc(relu).softmax(1)))
    for correction in (0, 1):
        wanted = []
        for one, two in zip(*features):
            of_each = [
                (f - f.mean(1, keepdim=True)) / f.std(1, keepdim=True, correction=correction) for f in (one, two)
            ]
            wanted.append((of_each[0] - of_each[1]).square().mean())
        chosen = objective_of(CtsOptions(objective="feature_mse", feature_correction=correction))
        found = chosen.value(pair_of(tiny, masks), batch).detach()
        # A slight addition keeps deviations off 0: 1e-5 of their mean square.
        assert float(found) == pytest.approx(float(sum(wanted) / 2), rel=1e-4)


@pytest.mark.parametrize("over", ["prunable", "all"])
def test_gradient_norm_over_prunable_or_all_parameters(tiny, batch, over):
    x, y = batch
    masks = {n: torch.rand_like(w.detach()) for n, w in prunable_weights(tiny).items()}
    named = {n: p.detach().clone().requires_grad_() for n, p in tiny.named_parameters()}
    used = {n: p * masks[n] if n in masks else p for n, p in named.items()}
    wanted = [p for n, p in named.items() if over == "all" or n in masks]
    gradients = torch.autograd.grad(F.cross_entropy(functional_call(tiny, used, (x,)), y), wanted)
    expected = -(sum(float(g.square().sum()) for g in gradients) ** 0.5)
    chosen = objective_of(CtsOptions(objective="gradient_norm", gradient_over=over))
    assert float(chosen.value(pair_of(tiny, masks), batch).detach()) == pytest.approx(expected, rel=1e-9)


def test_lanes_measure_all_their_own_parameters():
    lanes = [resnet(seed) for seed in (0, 1)]
    masks = [{n: torch.rand_like(w) for n, w in prunable_weights(lane).items()} for lane in lanes]
    batches = [next(Float64(seed).epoch(0, 16, augment=False)) for seed in (0, 1)]
    value = objective_of(CtsOptions(objective="gradient_norm", gradient_over="all")).value
    alone = [value(pair_of(n, m), b) for n, m, b in zip(lanes, masks, batches)]
    together = {n: torch.cat([mask[n] for mask in masks]) for n in masks[0]}
    batch = torch.cat([x for x, _ in batches], 1), torch.stack([y for _, y in batches])
    torch.testing.assert_close(
        value(pair_of(pack(lanes), together, 2), batch), torch.cat(alone), rtol=1e-9, atol=1e-9
    )


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
