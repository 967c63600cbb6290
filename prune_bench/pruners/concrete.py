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
from prune_bench.mask import kept_count
from prune_bench.options import AboveZero, Fraction, Positive
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

    def work(self, data: TrainingData) -> Iterable[Iterator[Batch]]:
        """Blocks of un-augmented training batches."""
        if self._is_dense:
            return [iter([])]
        return Steps(data, self.options.batch_size, self._length(data))

    def on_train_start(self) -> None:
        """Sets every logit to the density's, and the weights aside as constants."""
        (self._density,) = self.densities
        self.network.requires_grad_(False)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        weights = self._weights()
        self._frozen = {name: weight.detach().clone() for name, weight in weights.items()}
        self._sizes = [weight.numel() for weight in weights.values()]
        self._kept = kept_count(self._density, sum(self._sizes))
        self._random = generator(self.seed, "concrete", self._density, device=self.device)
        self._objective = OBJECTIVES[self.options.objective]
        self._scale = self.options.scale or self._objective.scale
        logit = 0.0 if self._is_dense else math.log(self._density / (1 - self._density))
        dtype = next(iter(weights.values())).dtype
        self.logits = torch.full((sum(self._sizes),), logit, dtype=dtype, device=self.device)
        self._adam = torch.optim.Adam(
            [self.logits],
            lr=self.options.lr,
            eps=_ADAM_EPSILON * self._scale / self._objective.scale,
            fused=self.device.type in ("cpu", "cuda"),
        )
        control: type[Any] = {"gradbalance": GradBalance, "lagrange": Lagrange}[self.options.control]
        self._control: DensityControl = control(kept=max(self._kept, 1))
        self._step = 0

    def training_step(self, block: Iterator[Batch], index: int) -> None:
        """A block of search steps, and one row of the search's curve."""
        objectives = []
        for batch in block:
            objectives.append(self._descend(batch))
            self._last = batch
        if objectives:
            e, _ = excess(self.logits, max(self._kept, 1))
            row = {"objective": torch.stack(objectives).mean(), "excess": e, "balance": self._control.weight}
            self.curves.append({"step": self._step, **{f"search/{k}": float(v) for k, v in row.items()}})

    def on_train_end(self) -> None:
        """Ranks the weights by their logits, and notes whether the search was long enough."""
        ranking = Ranking.from_scores(self._layers(self.logits))
        self.found[self._density] = ranking
        if self._is_dense:
            return
        hard = ranking.top(self._kept)
        p = torch.sigmoid(self.logits)
        keep = torch.cat([m.flatten() for m in hard.values()])
        mask = {name: m.to(p.dtype) for name, m in hard.items()}
        value = self._objective.value(Pair(self.network, self._frozen, mask), self._last)
        self.summary = {
            "search/kept_retention": float(p[keep].mean()) if self._kept else 0.0,
            "search/hard_objective": float(value),
        }

    def _descend(self, batch: Batch) -> Tensor:
        logits = self.logits.detach().requires_grad_()
        mask = torch.sigmoid(logits + self._noise())
        pair = Pair(self.network, self._frozen, self._layers(mask))
        objective = self._objective.value(pair, batch)
        (gradient,) = torch.autograd.grad(objective * self._scale, logits)
        decayed = self._step >= self.options.decay_at * self._steps
        self._adam.param_groups[0]["lr"] = self.options.lr * (0.1 if decayed else 1.0)
        self.logits.grad = self._control.combine(self.logits, gradient)
        self._adam.step()
        self._step += 1
        samples = len(batch[1])
        self.forwards += samples * self._objective.forwards
        self.backwards += samples * self._objective.backwards
        return objective.detach()

    def _noise(self) -> Tensor:
        """Logistic noise over the temperature, [N]."""
        u = torch.rand(self.logits.shape, generator=self._random, device=self.device, dtype=self.logits.dtype)
        # rand can be exactly 0 but never 1, so log1p(-u) is finite as it is.
        u.clamp_min_(1e-10)
        noise: Tensor = (u.log() - torch.log1p(-u)) / self.options.temperature
        return noise

    def _layers(self, flat: Tensor) -> dict[str, Tensor]:
        pieces = flat.split(self._sizes)
        return {name: piece.view(w.shape) for piece, (name, w) in zip(pieces, self._frozen.items())}

    def _length(self, data: TrainingData) -> int:
        per_epoch = data.steps_per_epoch(self.options.batch_size)
        self._steps = int(self.options.steps or self.options.epochs * per_epoch)
        return self._steps

    @property
    def _is_dense(self) -> bool:
        return self.densities[0] == 1.0
