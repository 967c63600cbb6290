"""Baselines every table needs: a method that does not beat ``random_erk`` has not shown anything."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from prune_bench.data.protocol import Batch, TrainingData
from prune_bench.mask import Scores, kept_count
from prune_bench.pruners.base import NoOptions, Pruner, ScoringPruner, Sharing
from prune_bench.pruners.registry import pruners
from prune_bench.randomness import generator
from prune_bench.ranking import Ranking


class _DataFree(ScoringPruner):
    def batches(self, data: TrainingData) -> list[Batch]:
        """None are needed."""
        return []


@pruners.add("magnitude", options=NoOptions, source="1510.00149", summary="Largest |w| at the pruning point.")
class Magnitude(_DataFree):
    """Keeps the weights of the largest magnitude, ranked globally."""

    def score(self, batches: list[Batch]) -> Scores:
        """|w|."""
        return {name: weight.detach().abs() for name, weight in self._weights().items()}


@pruners.add("random", options=NoOptions, source="baseline", summary="A uniformly random set of weights.")
class Random(_DataFree):
    """Keeps weights uniformly at random, in the whole network."""

    ordered = False

    def score(self, batches: list[Batch]) -> Scores:
        """A random permutation's numbers: no two weights are equal."""
        return _permuted(self._weights(), self.seed, "random")


@pruners.add(
    "random_erk",
    options=NoOptions,
    source="1911.11134",
    summary="Random weights at Erdos-Renyi-kernel layer densities.",
)
class RandomErk(Pruner):
    """Keeps weights at random in each layer, more densely in the smaller ones (1911.11134, section 3).

    A layer's density is proportional to the sum of its dimensions over their product, and is capped at 1.
    """

    ordered = False

    def work(self, data: TrainingData) -> Iterable[float]:
        """The densities."""
        return self.densities

    def training_step(self, density: float, index: int) -> None:
        """Draws one mask, and ranks what it keeps above what it does not."""
        weights = self._weights()
        counts = erk_counts({name: tuple(w.shape) for name, w in weights.items()}, density)
        random = Ranking.from_scores(_permuted(weights, self.seed, "random_erk", density)).layers
        sizes = {name: ranks.numel() for name, ranks in random.items()}
        scores = {}
        for name, ranks in random.items():
            order = ranks.flatten().argsort(descending=True)
            kept = torch.zeros(sizes[name], dtype=torch.float64, device=ranks.device)
            kept[order[: counts[name]]] = sum(sizes.values())
            scores[name] = kept.view_as(ranks) + ranks
        self.found[density] = Ranking.from_scores(scores)


def erk_counts(shapes: dict[str, tuple[int, ...]], density: float) -> dict[str, int]:
    """How many weights each layer keeps at Erdos-Renyi-kernel densities, in all exactly round(density x N).

    Args:
        shapes: The weights' shapes.
        density: Of the whole network.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    wanted = kept_count(density, sum(sizes.values()))
    full: set[str] = set()
    while True:
        free = wanted - sum(sizes[name] for name in full)
        raw = {name: float(sum(shape)) for name, shape in shapes.items() if name not in full}
        share = free / sum(raw.values()) if raw else 0.0
        over = {name for name in raw if raw[name] * share > sizes[name]}
        if not over:
            break
        full |= over
    exact = {name: float(sizes[name]) if name in full else raw[name] * share for name in shapes}
    counts = {name: math.floor(value) for name, value in exact.items()}
    # What rounding down left over goes to the largest remainders, where there is room.
    by_remainder = sorted(counts, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: wanted - sum(counts.values())]:
        counts[name] += 1
    return counts


@pruners.add(
    "dense", options=NoOptions, source="baseline", summary="No pruning: what the others are measured against."
)
class Dense(Magnitude):
    """Keeps every weight."""

    only_density = 1.0
    ordered = False

    @classmethod
    def sharing(cls, options: Any) -> Sharing:
        """There is one density."""
        return "densities"


def _permuted(weights: dict[str, Tensor], seed: int, *purpose: object) -> Scores:
    sizes = [weight.numel() for weight in weights.values()]
    order = torch.randperm(sum(sizes), generator=generator(seed, *purpose)).to(torch.float64)
    return {
        name: piece.view(weight.shape).to(weight.device)
        for (name, weight), piece in zip(weights.items(), order.split(sizes))
    }
