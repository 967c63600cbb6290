"""Kernels that a step launches on a GPU: below some ten thousand weights a layer they are what a step costs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch import nn

from prune_bench.config import Precision, Recipe
from prune_bench.data import load_data
from prune_bench.mask import Mask
from prune_bench.models import build_model
from prune_bench.packing import pack, pack_data
from prune_bench.pruners import pruners
from prune_bench.randomness import generator
from prune_bench.training import fit
from prune_bench.training.descent import Descent
from tests.gpu.jobs import random_mask
from tests.gpu.pretended import Gpu

BATCH = 8
DATA = {"samples": 5 * BATCH, "test_samples": 8, "image_size": 8, "channels": 3, "classes": 10}


def network(seed: int) -> nn.Module:
    """The published network; kernels do not depend on the size of its images."""
    return build_model("resnet20", {}, in_channels=3, image_size=8, num_classes=10, generator=generator(seed, "step"))


def data(lanes: int, gpu: Gpu) -> Any:
    return pack_data([load_data("synthetic", DATA, seed).to(gpu.place) for seed in range(lanes)])


def train(gpu: Gpu, lanes: int, precision: Precision = "float32") -> None:
    networks = [network(seed) for seed in range(lanes)]
    masks = Mask.side_by_side([random_mask(own, 0, density=0.05) for own in networks])
    descent = Descent(pack(networks).to(gpu.place), masks, Recipe(batch_size=BATCH, precision=precision), lanes=lanes)
    for x, y in third_step_counted(gpu, data(lanes, gpu).epoch(0, BATCH, augment=True)):
        descent.step(x, y)


def search(gpu: Gpu, lanes: int, method: str) -> None:
    entry = pruners.find(method, "method")
    options = entry.options(steps=4, batch_size=BATCH)
    found = [entry.build(network(seed), (0.05 + 0.01 * seed,), options, seed=seed) for seed in range(lanes)]
    found[0].join(found[1:])
    own = data(lanes, gpu)
    epoch = own.epoch
    own.epoch = lambda *args, **how: third_step_counted(gpu, epoch(*args, **how))
    fit(found[0], found[0].work(own), epochs=1, device=gpu.place)


def third_step_counted(gpu: Gpu, batches: Iterator[Any]) -> Iterator[Any]:
    """The batches; kernels are counted from when the third is asked for until the fourth is."""
    yield from itertools.islice(batches, 2)
    gpu.seen.counting = True
    yield next(batches)
    gpu.seen.counting = False
    yield from batches


@pytest.mark.parametrize(
    ("do", "lanes", "ceiling"),
    [
        pytest.param(train, 1, 193, id="training"),
        pytest.param(lambda *how: train(*how, "tf32"), 1, 193, id="training in channels-last"),
        pytest.param(train, 8, 312, id="training x8"),
        pytest.param(lambda *how: search(*how, "cts"), 1, 218, id="cts"),
        pytest.param(lambda *how: search(*how, "cts"), 8, 276, id="cts x8"),
        pytest.param(lambda *how: search(*how, "cts_kl"), 1, 297, id="cts_kl"),
        pytest.param(lambda *how: search(*how, "cts_kl"), 8, 356, id="cts_kl x8"),
    ],
)
def test_launches_stay_within(gpu: Gpu, do: Callable[[Gpu, int], None], lanes: int, ceiling: int) -> None:
    do(gpu, lanes)
    assert gpu.seen.slow_lists == set()
    assert 100 < gpu.seen.launches.total() <= ceiling, gpu.seen.launches
