"""Reduced precision: the arithmetic of a loop written out with torch.autocast, and nothing else changed."""

import contextlib
import copy
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

import prune_bench as pb
from prune_bench.data import load_data
from prune_bench.mask import Mask, prunable_weights
from prune_bench.models import build_model
from prune_bench.precision import products, repeatable, run_in
from prune_bench.pruners.objectives import OBJECTIVES
from prune_bench.pruners.pair import Pair
from prune_bench.randomness import generator
from prune_bench.sweep import compute
from prune_bench.sweep.stages import Stage
from prune_bench.training import train

from .pruners.pairs import pair_of

RECIPE = pb.Recipe(epochs=2, batch_size=64, milestones=(1,), precision="bfloat16")


@pytest.fixture
def network():
    options = {"in_channels": 1, "image_size": 8, "num_classes": 4, "generator": generator(0, "precision")}
    return build_model("resnet8", {"width": 4}, **options)


@pytest.fixture(scope="module")
def data():
    options = {"samples": 256, "test_samples": 64, "image_size": 8, "channels": 1, "classes": 4, "validation": 0.0}
    return load_data("synthetic", options, 0)


def test_bfloat16_training_is_a_plain_loop_under_autocast_step_by_step(network, data):
    g = torch.Generator().manual_seed(0)
    mask = Mask({n: torch.rand(w.shape, generator=g) < 0.5 for n, w in prunable_weights(network).items()})
    found = train(network, mask, RECIPE, data, device=torch.device("cpu")).network
    plain = copy.deepcopy(network).to(memory_format=torch.channels_last).train()
    weights = prunable_weights(plain)
    mask.apply_(plain)
    sgd = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    for epoch in range(2):
        sgd.param_groups[0]["lr"] = 0.1 if epoch < 1 else 0.01
        for x, y in data.epoch(epoch, 64, augment=True):
            sgd.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                logits = plain(x)
            F.cross_entropy(logits.float(), y).backward()
            for name, keep in mask.items():
                weights[name].grad *= keep
            torch.nn.utils.clip_grad_norm_(plain.parameters(), 2.0)
            sgd.step()
    for ours, theirs in zip(found.parameters(), plain.parameters()):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for name, weight in prunable_weights(found).items():
        assert bool((weight[~mask[name]] == 0).all())


def test_bfloat16_is_not_float32(network, data):
    full = pb.Recipe(epochs=2, batch_size=64, milestones=(1,))
    one, other = (train(network, Mask.full(network), r, data, device=torch.device("cpu")) for r in (RECIPE, full))
    assert one.curves != other.curves
    assert one.curves[0]["train/loss"] == pytest.approx(other.curves[0]["train/loss"], rel=0.02)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_an_objective_in_bfloat16_is_near_its_value_and_comes_in_float32(network, data, name):
    torch.manual_seed(0)
    pair = pair_of(network, {n: torch.rand_like(w) for n, w in prunable_weights(network).items()})
    batch = next(data.epoch(0, 64, augment=False))
    exact = OBJECTIVES[name].value(pair, batch).detach()
    assert torch.equal(exact, OBJECTIVES[name].value(pair, batch).detach())  # what follows is the precision's doing
    rough = OBJECTIVES[name].value(Pair(**vars(pair) | {"precision": "bfloat16"}), batch).detach()
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.02)


def test_logits_come_back_in_the_images_dtype(network, data):
    x, _ = next(data.epoch(0, 64, augment=False))
    assert run_in("bfloat16", network, x).dtype == torch.float32
    assert not torch.equal(run_in("bfloat16", network, x), network(x))
    assert torch.equal(run_in("tf32", network, x), network(x))


SWITCHES = """
import sys, torch
from prune_bench.precision import products
exec(sys.argv[1])
def said():
    found = []
    for ask in ("get_float32_matmul_precision()", "backends.cuda.matmul.allow_tf32", "backends.cudnn.allow_tf32",
                "backends.cuda.matmul.fp32_precision", "backends.cudnn.conv.fp32_precision",
                "backends.cudnn.rnn.fp32_precision"):
        try:
            found.append(eval("torch." + ask))
        except (RuntimeError, AttributeError) as refused:
            found.append(type(refused))
    return found
before = said()
for precision in ("float32", "tf32", "bfloat16"):
    try:
        with products(precision):
            new = hasattr(torch.backends.cudnn, "conv")
            inside = said()[3:] if new else said()[1:3]
            tf32 = precision == "tf32"
            assert inside == ([["ieee", "tf32"][tf32]] * 3 if new else [tf32] * 2), (precision, inside)
            raise KeyError
    except KeyError:
        assert said() == before, (precision, said(), before)
"""


@pytest.mark.parametrize(
    "users",
    ["pass", "torch.set_float32_matmul_precision('medium')", "torch.backends.cudnn.allow_tf32 = False"],
)
def test_products_are_rounded_inside_only_if_asked_and_the_users_settings_come_back(users):
    done = subprocess.run([sys.executable, "-c", SWITCHES, users], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def by_speed(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    return lambda: (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)


def test_on_a_gpu_a_stage_is_computed_by_algorithms_that_give_the_same_bits(by_speed, monkeypatch):
    seen, stage = [], Stage("training", "a training", {"seed": 0}, {"state": "state-0"})
    monkeypatch.setitem(compute._HOW, "training", lambda *_: seen.append(by_speed()) or [])
    monkeypatch.setattr(torch.random, "fork_rng", lambda **_: contextlib.nullcontext())
    for device in ("cuda:0", "cpu"):
        compute.compute([stage], [{}], torch.device(device))
    assert seen == [(True, False), (False, True)]
    assert by_speed() == (False, True)


def test_algorithms_are_put_back_when_a_stage_fails(by_speed):
    with pytest.raises(ZeroDivisionError), products("float32"), repeatable(torch.device("cuda:0")):
        raise ZeroDivisionError
    assert by_speed() == (False, True)
