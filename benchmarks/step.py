"""What Lightning costs: our training of the smoke network against a bare PyTorch loop, interleaved in one run.

python benchmarks/step.py [--device cuda]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch.nn import functional as F

from prune_bench.config import Recipe
from prune_bench.data import load_data
from prune_bench.mask import Mask
from prune_bench.models import build_model
from prune_bench.randomness import generator
from prune_bench.training import train
from prune_bench.training.descent import Descent

RECIPE = Recipe(epochs=20, batch_size=64, milestones=(10, 15))


def bare(network, data, device) -> None:
    """The same steps with nothing around them: no mask, no curves, no validation."""
    network.to(device).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3, fused=True)
    for epoch in range(RECIPE.epochs):
        for x, y in data.epoch(epoch, RECIPE.batch_size, augment=True):
            optimiser.zero_grad()
            F.cross_entropy(network(x), y).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
            optimiser.step()


def steps_only(network, data, device) -> None:
    """Our step under a full mask, without Lightning."""
    descent = Descent(network.to(device), Mask.full(network), RECIPE)
    for epoch in range(RECIPE.epochs):
        for x, y in data.epoch(epoch, RECIPE.batch_size, augment=True):
            descent.step(x, y)


def whole(network, data, device) -> None:
    """What a cell does: Lightning, mask, curves, validation every epoch."""
    train(network, Mask.full(network), RECIPE, data, device=device)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.set_num_threads(1)
    data = load_data("digits", {}, 0).to(device)
    ways = {"bare loop": bare, "our step": steps_only, "whole training": whole}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(args.runs + 1):
        for name, way in ways.items():
            network = build_model(
                "resnet8", {"width": 8}, in_channels=1, image_size=8, num_classes=10, generator=generator(0, "bench")
            )
            begun = time.perf_counter()
            way(network, data, device)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if run:  # the first is the warm-up
                seconds[name].append(time.perf_counter() - begun)
    steps = RECIPE.epochs * data.steps_per_epoch(RECIPE.batch_size)
    for name, times in seconds.items():
        ratios = [t / b for t, b in zip(times, seconds["bare loop"])]
        median = statistics.median(times)
        print(
            f"{name:15} {1e3 * median / steps:6.2f} ms a step   x {statistics.median(ratios):.2f} of the bare loop "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
