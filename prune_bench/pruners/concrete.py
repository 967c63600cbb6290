"""Concrete ticket search: a mask learned by gradient descent on relaxed Bernoulli variables (2512.07142)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from prune_bench.config import Recipe
from prune_bench.data.protocol import Batch, TrainingData
from prune_bench.mask import Mask, kept_count, prunable_weights
from prune_bench.options import AboveZero, Fraction, Positive
from prune_bench.packing import pack
from prune_bench.parallel import ranks, sum_
from prune_bench.pruners.base import Pruner
from prune_bench.pruners.gradbalance import DensityControl, GradBalance, Lagrange, excess
from prune_bench.pruners.objectives import OBJECTIVES, Name, Pair
from prune_bench.pruners.registry import pruners
from prune_bench.randomness import generator
from prune_bench.ranking import Ranking
from prune_bench.training.blocks import Steps

_ADAM_EPSILON = 1e-8


@dataclass(frozen=True, kw_only=True)
class CtsOptions:
    """Options of concrete ticket search."""

    objective: Name = "task_loss"
    """What the search minimises."""
    epochs: Positive = 20
    """Length of the search in epochs of the training data: 20 is the paper's short search, 160 its long one."""
    steps: Positive | None = None
    """Length of the search in steps, instead of epochs."""
    batch_size: Positive = 512
    """Un-augmented training images a step."""
    lr: AboveZero = 0.1
    """Adam's rate."""
    decay_at: Fraction = 0.88
    """Part of the search after which the rate is a tenth."""
    temperature: AboveZero = 2 / 3
    """Of the relaxation (1611.00712)."""
    control: Literal["gradbalance", "lagrange"] = "gradbalance"
    """How the density is held."""
    scale: AboveZero | None = None
    """Factor on the objective; null for the published one. Adam's epsilon follows it, so no ticket hangs on it."""


@dataclass(frozen=True, kw_only=True)
class CtsKlOptions(CtsOptions):
    """Options of concrete ticket search by divergence."""

    objective: Name = "reverse_kl"
    """What the search minimises."""


@pruners.add(
    "cts",
    options=CtsOptions,
    source="2512.07142",
    summary="Concrete ticket search on the sparse network's task loss.",
)
@pruners.add(
    "cts_kl",
    options=CtsKlOptions,
    source="2512.07142",
    summary="Concrete ticket search on KL(sparse || dense) of the outputs.",
)
class ConcreteTicketSearch(Pruner):
    """Learns one logit a weight, the weights frozen, and keeps the weights of the largest logits.

    Each step draws one relaxed mask m = sigmoid(alpha + logistic noise / temperature) and descends on the objective
    of f(x; m * w) by Adam; GradBalance holds the expected density (2512.07142, algorithm 1).
    """

    @classmethod
    def length(cls, options: Any, recipe: Recipe, samples: int) -> float:
        """The search's steps, each as dear as the objective's passes."""
        objective = OBJECTIVES[options.objective]
        epochs = options.steps * options.batch_size / samples if options.steps else options.epochs
        return float(epochs * (objective.forwards + 2 * objective.backwards) / 3)

    @classmethod
    def step_images(cls, options: Any, recipe: Recipe) -> int | None:
        """Searches of other seeds and densities can run side by side."""
        return int(options.batch_size)

    def work(self, data: TrainingData) -> Iterable[Iterator[Batch]]:
        """Blocks of un-augmented training batches."""
        if all(lane._density == 1.0 for lane in self.lanes):
            return [iter([])]
        steps = self.options.steps or self.options.epochs * data.steps_per_epoch(self.options.batch_size)
        self._steps, self._step = int(steps), 0
        return Steps(data, self.options.batch_size, self._steps)

    def on_train_start(self) -> None:
        """Sets every logit to its density's, and the weights aside as constants."""
        self._packed = pack([lane.network for lane in self.lanes]).to(self.device)
        self._packed.requires_grad_(False)
        self._packed.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        weights = prunable_weights(self._packed)
        self._frozen = {name: weight.detach().clone() for name, weight in weights.items()}
        self._sizes = [weight.numel() // len(self.lanes) for weight in weights.values()]
        self._kept = [kept_count(lane._density, sum(self._sizes)) for lane in self.lanes]
        self._random = [generator(lane.seed, "concrete", lane._density, device=self.device) for lane in self.lanes]
        self._objective = OBJECTIVES[self.options.objective]
        self._scale = self.options.scale or self._objective.scale
        dtype = next(iter(weights.values())).dtype
        starts = torch.tensor([[_logit(lane._density)] for lane in self.lanes], dtype=dtype, device=self.device)
        self.logits = starts.repeat(1, sum(self._sizes))
        self._adam = torch.optim.Adam(
            [self.logits],
            lr=self.options.lr,
            eps=_ADAM_EPSILON * self._scale / self._objective.scale,
            fused=self.device.type in ("cpu", "cuda"),
        )
        control: type[Any] = {"gradbalance": GradBalance, "lagrange": Lagrange}[self.options.control]
        # Of a tiny network nothing may be kept; the excess is then held as if one weight were.
        self._targets = torch.tensor(self._kept, dtype=torch.float64, device=self.device).clamp_min(1)
        self._control: DensityControl = control(kept=self._targets)

    def training_step(self, block: Iterator[Batch], index: int) -> None:
        """A block of search steps, and one row of each search's curve."""
        objectives = []
        for batch in block:
            objectives.append(self._descend(batch))
            self._last = batch
        if objectives:
            excesses, _ = excess(self.logits, self._targets)
            rows = (torch.stack(objectives).mean(0), excesses, self._control.weight)
            for lane, values in zip(self.lanes, zip(*(row.tolist() for row in rows))):
                named = zip(("search/objective", "search/excess", "search/balance"), values)
                lane.curves.append({"step": self._step, **dict(named)})

    def on_train_end(self) -> None:
        """Ranks each lane's weights by their logits, and notes whether its search was long enough."""
        rankings = [Ranking.from_scores(self._layers(logits, 1)) for logits in self.logits]
        for lane, ranking in zip(self.lanes, rankings):
            lane.found[lane._density] = ranking
        if all(lane._density == 1.0 for lane in self.lanes):
            return
        tops = [ranking.top(kept) for ranking, kept in zip(rankings, self._kept)]
        dtype = self.logits.dtype
        mask = {name: keep.to(dtype) for name, keep in Mask.side_by_side(tops).items()}
        pair = Pair(self._packed, self._frozen, mask, len(self.lanes))
        values = self._objective.value(pair, self._last).tolist()
        for lane, top, logits, value in zip(self.lanes, tops, self.logits, values):
            keep = torch.cat([m.flatten() for m in top.values()])
            retention = torch.sigmoid(logits)[keep].mean() if top.kept else torch.zeros(())
            lane.summary = {"search/kept_retention": float(retention), "search/hard_objective": value}

    def _descend(self, batch: Batch) -> Tensor:
        logits = self.logits.detach().requires_grad_()
        mask = self._layers(torch.sigmoid(logits + self._noise()), len(self.lanes))
        objectives = self._objective.value(Pair(self._packed, self._frozen, mask, len(self.lanes)), batch)
        (gradient,) = torch.autograd.grad(objectives.sum() * (self._scale / ranks()), logits)
        sum_([gradient])
        decayed = self._step >= self.options.decay_at * self._steps
        self._adam.param_groups[0]["lr"] = self.options.lr * (0.1 if decayed else 1.0)
        self.logits.grad = self._control.combine(self.logits, gradient)
        self._adam.step()
        self._step += 1
        samples = batch[1].shape[-1] * ranks()
        for lane in self.lanes:
            lane.forwards += samples * self._objective.forwards
            lane.backwards += samples * self._objective.backwards
        return objectives.detach()

    def _noise(self) -> Tensor:
        """Logistic noise over the temperature, [lanes, N], each lane's from its own generator."""
        u = torch.empty_like(self.logits)
        for row, own in zip(u, self._random):
            row.uniform_(generator=own)
        # uniform_ can be exactly 0 but never 1, so log1p(-u) is finite as it is.
        u.clamp_min_(1e-10)
        noise: Tensor = (u.log() - torch.log1p(-u)) / self.options.temperature
        return noise

    def _layers(self, flat: Tensor, lanes: int) -> dict[str, Tensor]:
        """[lanes, N], or [N] of one, as tensors of the packed weights' shapes."""
        pieces = flat.split(self._sizes, -1)
        shapes = [(lanes * (len(w) // len(self.lanes)), *w.shape[1:]) for w in self._frozen.values()]
        return {name: piece.reshape(shape) for piece, name, shape in zip(pieces, self._frozen, shapes)}

    @property
    def _density(self) -> float:
        (density,) = self.densities
        return density


def _logit(density: float) -> float:
    return 0.0 if density == 1.0 else math.log(density / (1 - density))
