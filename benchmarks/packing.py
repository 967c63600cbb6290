"""What packing gives: trainings and searches of the smoke network side by side against a bare loop, in one run.

python benchmarks/packing.py [--device cuda]
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
from prune_bench.packing import pack_data
from prune_bench.pruners import pruners
from prune_bench.randomness import generator
from prune_bench.training import fit, train_lanes

LANES = (1, 2, 4, 8)
EPOCHS, STEPS = 5, 60


def network(seed, device):
    random = generator(seed, "bench")
    return build_model("resnet8", {"width": 8}, in_channels=1, image_size=8, num_classes=10, generator=random).to(
        device
    )


def bare_training(data, device) -> int:
    """One network, the same steps, nothing around them; gives the number of steps."""
    net = network(0, device).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3, fused=True)
    for epoch in range(EPOCHS):
        for x, y in data[0].epoch(epoch, 64, augment=True):
            optimiser.zero_grad()
            F.cross_entropy(net(x), y).backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
            optimiser.step()
    return EPOCHS * data[0].steps_per_epoch(64)


def training(lanes, data, device) -> int:
    """Whole trainings of ``lanes`` cells; gives the steps of all."""
    nets = [network(seed, device) for seed in range(lanes)]
    recipe = Recipe(epochs=EPOCHS, batch_size=64, milestones=(3,))
    train_lanes(nets, [Mask.full(n) for n in nets], recipe, pack_data(data[:lanes]), device=device)
    return lanes * EPOCHS * data[0].steps_per_epoch(64)


def search(method, lanes, data, device) -> int:
    """Whole searches of ``lanes`` cells; gives the steps of all."""
    entry = pruners[method]
    options = entry.options(steps=STEPS, batch_size=128)
    cells = [entry.build(network(seed, device), (0.05,), options, seed=seed) for seed in range(lanes)]
    cells[0].join(cells[1:])
    fit(cells[0], cells[0].work(pack_data(data[:lanes])), epochs=1, device=device)
    return lanes * STEPS


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.set_num_threads(1)
    data = [load_data("digits", {}, seed).to(device) for seed in range(max(LANES))]
    ways = {"bare loop, batch 64": lambda: bare_training(data, device)}
    for k in LANES:
        ways[f"training x {k}, batch 64"] = lambda k=k: training(k, data, device)
    for name in ("cts", "cts_kl"):
        for k in LANES:
            ways[f"{name} x {k}, batch 128"] = lambda k=k, name=name: search(name, k, data, device)
    costs: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(args.runs + 1):
        for name, way in ways.items():
            begun = time.perf_counter()
            steps = way()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if run:  # the first is the warm-up
                costs[name].append((time.perf_counter() - begun) / steps)
    for name, times in costs.items():
        alone = costs[name.split(" x ")[0] + " x 1" + name[name.index(",") :]] if " x " in name else times
        against = costs["bare loop, batch 64"] if "64" in name else alone
        ratios = sorted(a / t for a, t in zip(against, times))
        print(
            f"{name:24} {1e3 * statistics.median(times):6.2f} ms a cell's step   "
            f"x {statistics.median(ratios):.2f} the speed of {'the bare loop' if '64' in name else 'one alone'} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
