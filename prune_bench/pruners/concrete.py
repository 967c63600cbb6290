"""Concrete ticket search: a mask learned by gradient descent on relaxed Bernoulli variables (2512.07142)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prune_bench.config import Precision, Recipe
from prune_bench.data.protocol import Batch, TrainingData
from prune_bench.errors import ConfigError
from prune_bench.mask import Mask, kept_count, prunable_weights
from prune_bench.options import AboveZero, Fraction, Positive, later
from prune_bench.packing import PackedData, pack
from prune_bench.parallel import ranks, sum_
from prune_bench.precision import products
from prune_bench.pruners.base import Pruner
from prune_bench.pruners.gradbalance import DensityControl, GradBalance, Lagrange, excess, norms
from prune_bench.pruners.objectives import OBJECTIVES, Name, Over, objective_of
from prune_bench.pruners.pair import Dense, Layout, Pair, distinct
from prune_bench.pruners.registry import pruners
from prune_bench.randomness import generator
from prune_bench.ranking import Ranking
from prune_bench.training.blocks import Steps
from prune_bench.training.layout import lay_out_, memory_layout
from prune_bench.training.replay import Replayed, record_of

_ADAM_EPSILON = 1e-8
_DECAY = 0.1


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
    draws: Positive = later(1)
    """Masks drawn a step, each for its own equal part of the images. The published code has four, one a device; their
    gradients are averaged, and so are the norms that GradBalance balances."""
    lr: AboveZero = 0.1
    """Adam's rate."""
    decay_at: Fraction = 0.88
    """Part of the search after which the rate is a tenth; 1 for never. The published tables have 1 in short searches
    and 119/160 in long ones, later code of the authors 16/20 and 139/160."""
    temperature: AboveZero = 2 / 3
    """Of the relaxation (1611.00712)."""
    control: Literal["gradbalance", "lagrange"] = "gradbalance"
    """How the density is held."""
    multiplier: Literal["clamped", "free"] = later("clamped")
    """How `lagrange` moves: never below 0, or `free` to, with a rate that decays with Adam's, as published."""
    feature_correction: Literal[0, 1] = later(0)
    """Of the standard deviation in `feature_mse`; 1 as published."""
    gradient_over: Over = later("prunable")
    """Parameters whose gradient `gradient_norm` measures; `all` as published."""
    precision: Precision = later("float32")
    """Arithmetic of the passes; `tf32` and `bfloat16` as in `train.precision`."""
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
        self._streams = data.streams if isinstance(data, PackedData) else (0,)
        if all(lane._density == 1.0 for lane in self.lanes):
            return [iter([])]
        steps = self.options.steps or self.options.epochs * data.steps_per_epoch(self.options.batch_size)
        self._steps, self._step = int(steps), 0
        return Steps(data, self.options.batch_size, self._steps)

    def on_train_start(self) -> None:
        """Sets every logit to its density's, and the weights aside as constants."""
        # Lightning has moved this search to the device, and not those that run with it.
        lanes, networks = len(self.lanes), [lane.network.to(self.device) for lane in self.lanes]
        self._packed = _ready(pack(networks), self.device)
        places = distinct(networks, self._streams)
        first = [networks[places.index(place)] for place in range(max(places) + 1)]
        # Where all are distinct, the packed network's own weights are theirs.
        self._dense = self._packed if len(first) == lanes else _ready(pack(first), self.device)
        self._against = Dense.of(self._dense, places, self.device)
        weights = prunable_weights(self._packed)
        self._layout = Layout(weights, lanes)
        self._weights_flat = self._layout.flatten(weights)
        self._kept = [kept_count(lane._density, self._weights_flat.shape[1]) for lane in self.lanes]
        self._random = [generator(lane.seed, "concrete", lane._density, device=self.device) for lane in self.lanes]
        self._objective = objective_of(self.options)
        self._scale = self.options.scale or self._objective.scale
        record = record_of(self.device, self._random)
        self._replayed, self._laid_out = Replayed(self._search_step, record), False
        starts = self._weights_flat.new_tensor([[_logit(lane._density)] for lane in self.lanes])
        self.logits = starts.expand_as(self._weights_flat).clone().requires_grad_()
        self._adam = torch.optim.Adam(
            [self.logits],
            lr=self.options.lr,
            eps=_ADAM_EPSILON * self._scale / self._objective.scale,
            fused=self.device.type in ("cpu", "cuda"),
            capturable=record is not None and self.device.type == "cuda",
        )
        # Of a tiny network nothing may be kept; the excess is then held as if one weight were.
        self._targets = torch.tensor(self._kept, dtype=torch.float64, device=self.device).clamp_min(1)
        self._control: DensityControl = (
            GradBalance(kept=self._targets)
            if self.options.control == "gradbalance"
            else Lagrange(kept=self._targets, free=self.options.multiplier == "free")
        )

    def training_step(self, block: Iterator[Batch], index: int) -> None:
        """A block of search steps, and one row of each search's curve."""
        objectives = []
        for batch in block:
            objectives.append(self._descend(batch))
            self._last = batch
        if objectives:
            excesses, _ = excess(self.logits.detach(), self._targets)
            rows = (torch.stack(objectives).mean(0), excesses, self._control.weight)
            for lane, values in zip(self.lanes, zip(*(row.tolist() for row in rows))):
                named = zip(("search/objective", "search/excess", "search/balance"), values)
                lane.curves.append({"step": self._step, **dict(named)})

    def on_train_end(self) -> None:
        """Ranks each lane's weights by their logits, and notes whether its search was long enough."""
        del self._replayed  # its memory on the device, and a cycle through the step that would keep the data alive
        logits = self.logits.detach()
        rankings = [Ranking.from_scores(self._layout.layers(own)) for own in logits]
        for lane, ranking in zip(self.lanes, rankings):
            lane.found[lane._density] = ranking
        if all(lane._density == 1.0 for lane in self.lanes):
            return
        tops = [ranking.top(kept) for ranking, kept in zip(rankings, self._kept)]
        mask = self._layout.flatten(Mask.side_by_side(tops))
        pair = replace(self._pair(mask.to(logits.dtype)), precision="float32")
        values = self._objective.value(pair, self._last).tolist()
        for lane, keep, own, value in zip(self.lanes, mask, logits, values):
            retention = torch.sigmoid(own)[keep].mean() if keep.any() else torch.zeros(())
            lane.summary = {"search/kept_retention": float(retention), "search/hard_objective": value}

    def _descend(self, batch: Batch) -> Tensor:
        """One step, and what is counted of it; each lane's objective, [lanes]."""
        if not self._laid_out:
            self._lay_out(batch[0])
        decayed = self._step >= self.options.decay_at * self._steps
        rate = self.options.lr * (_DECAY if decayed else 1.0)
        if rate != self._adam.param_groups[0]["lr"]:
            self._adam.param_groups[0]["lr"] = rate
            self._control.slow_down(_DECAY)
            self._replayed.forget()
        objectives = self._replayed(*batch)
        self._step += 1
        samples = batch[1].shape[-1] * ranks()
        for lane in self.lanes:
            lane.forwards += samples * self._objective.forwards
            lane.backwards += samples * self._objective.backwards
        return objectives

    def _lay_out(self, x: Tensor) -> None:
        """Chooses the networks' memory layout by the first batch.

        Raises:
            ConfigError: It has too few images for so many draws.
        """
        if len(x) * ranks() < 2 * self.options.draws:
            words = f"is too many for batches of {len(x) * ranks()} images: each draw needs two"
            raise ConfigError("draws", self.options.draws, words)
        layout = memory_layout(self._packed, x, precision=self.options.precision, lanes=len(self.lanes))
        lay_out_(self._packed, layout)
        lay_out_(self._dense, layout)
        self._layout.memory, self._laid_out = layout, True

    def _search_step(self, x: Tensor, y: Tensor) -> Tensor:
        """What is recorded of a step: it changes tensors in place, and nothing else."""
        draws = self.options.draws
        drawn = [self._draw(part) for part in zip(x.tensor_split(draws), y.tensor_split(draws, -1))]
        logits = self.logits.detach()
        if draws == 1:
            ((objectives, gradient),) = drawn
            self.logits.grad = self._control.combine(logits, gradient)
        else:
            values, gradients = (torch.stack(each) for each in zip(*drawn))
            objectives, length = values.mean(0), norms(gradients).mean(0)
            self.logits.grad = self._control.combine(logits, gradients.mean(0), length)
        self._adam.step()
        return objectives

    def _draw(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Each lane's objective under one mask drawn, [lanes], and its gradient, [lanes, N]."""
        mask = torch.sigmoid(self.logits + self._noise())
        with products(self.options.precision):
            objectives = self._objective.value(self._pair(mask), batch)
            (gradient,) = torch.autograd.grad(objectives.sum() * (self._scale / ranks()), self.logits)
        sum_([gradient])
        return objectives.detach(), gradient

    def _noise(self) -> Tensor:
        """Logistic noise over the temperature, [lanes, N], each lane's from its own generator."""
        u = torch.empty_like(self._weights_flat)
        for row, own in zip(u, self._random):
            row.uniform_(generator=own)
        # uniform_ can be exactly 0 but never 1, and so can 1 - u never be 0.
        noise: Tensor = (u.clamp_min(1e-10).log() - (1 - u).log()) / self.options.temperature
        return noise

    def _pair(self, mask: Tensor) -> Pair:
        return Pair(self._packed, self._layout, self._weights_flat, mask, self._against, self.options.precision)

    @property
    def _density(self) -> float:
        (density,) = self.densities
        return density


def _logit(density: float) -> float:
    return 0.0 if density == 1.0 else math.log(density / (1 - density))


def _ready(network: nn.Module, device: torch.device) -> nn.Module:
    return network.to(device).requires_grad_(False)
