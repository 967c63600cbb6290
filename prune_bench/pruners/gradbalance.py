"""How a concrete search holds its density: GradBalance, and the Lagrangian it is compared with (2512.07142)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

_TINY = torch.finfo(torch.float64).tiny


class DensityControl(Protocol):
    """Adds the pull towards a density to an objective's gradient."""

    def combine(self, logits: Tensor, gradient: Tensor, length: Tensor | None = None) -> Tensor:
        """The gradient to descend on.

        Args:
            logits: [N], or [lanes, N].
            gradient: The objective's, of the same shape.
            length: What counts as the gradient's length, float64, a scalar or [lanes]; its own norm if None.
        """

    def slow_down(self, factor: float) -> None:
        """The search's learning rate was multiplied by ``factor``."""

    @property
    def weight(self) -> Tensor:
        """The weight of the density term now, a scalar or [lanes]."""


def excess(logits: Tensor, target: Tensor | float) -> tuple[Tensor, Tensor]:
    """How far the expected number of kept weights lies above a target, e = sum(p) / C - 1, and its gradient.

    Args:
        logits: [N], or [lanes, N] of several searches, any float dtype; p = sigmoid(logits).
        target: C, in weights; a number or one a lane.

    Returns:
        The excess, float64, a scalar or [lanes], and de/dlogits = p (1 - p) / C, of the logits' dtype and shape.
    """
    p = torch.sigmoid(logits)
    target = torch.as_tensor(target, dtype=torch.float64, device=logits.device)
    e = p.sum(-1, dtype=torch.float64) / target - 1
    # sigmoid(-x) is 1 - p without the cancellation that makes it 0 for large logits.
    return e, p * torch.sigmoid(-logits) / target.to(logits.dtype).unsqueeze(-1)


def norms(vectors: Tensor) -> Tensor:
    """Euclidean length of each row, [..., N] to [...]; in float64, where small squares do not underflow."""
    found: Tensor = torch.linalg.vector_norm(vectors, dim=-1, dtype=torch.float64)
    return found


@dataclass
class GradBalance:
    """Weighs the density term so that its gradient is as long as the objective's while there is an excess.

    lambda* = ||g_t|| / ||g_s|| if e > 0 else 0, smoothed by lambda <- 0.99 lambda + 0.01 lambda*, the first one taken
    whole. Where several masks are drawn a step, ||g_t|| is the mean of their gradients' norms.

    Attributes:
        kept: Weights to keep, K; a number or one a lane.
        slack: The target is slack x K.
        rate: Of the exponential moving average.
    """

    kept: Tensor | float
    slack: float = 1.1
    rate: float = 0.01
    weight: Tensor = field(default_factory=lambda: torch.tensor(math.nan, dtype=torch.float64))

    def combine(self, logits: Tensor, gradient: Tensor, length: Tensor | None = None) -> Tensor:
        """g_t + lambda g_s."""
        e, pull = excess(logits, self.slack * self.kept)
        balance = (norms(gradient) if length is None else length) / norms(pull).clamp_min(_TINY)
        wanted = torch.where(e > 0, balance, torch.zeros_like(balance))
        self.weight = _one_each(self.weight, wanted)
        moved = torch.lerp(self.weight, wanted, self.rate)
        self.weight.copy_(torch.where(self.weight.isnan(), wanted, moved))
        return gradient + self.weight.to(gradient.dtype).unsqueeze(-1) * pull

    def slow_down(self, factor: float) -> None:
        """Nothing: the average keeps its pace."""


@dataclass
class Lagrange:
    """Weighs the density term by a multiplier that gradient ascent moves while the density is off.

    Minimises objective + lambda x scale x e with C = K; lambda starts at 0 and moves by SGD ascent, and not below 0.
    In the code of 2512.07142 it is ``free``: it falls below 0 while too few weights are kept, and its rate decays
    with the search's.

    Attributes:
        kept: Weights to keep, K; a number or one a lane.
        scale: Of the density term.
        lr: Of the ascent.
        free: Whether it is as published.
    """

    kept: Tensor | float
    scale: float = 100.0
    lr: float = 1e-3
    free: bool = False
    weight: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def combine(self, logits: Tensor, gradient: Tensor, length: Tensor | None = None) -> Tensor:
        """g_t + lambda scale g_s; then lambda moves."""
        e, pull = excess(logits, self.kept)
        self.weight = _one_each(self.weight, e)
        combined = gradient + (self.weight * self.scale).to(gradient.dtype).unsqueeze(-1) * pull
        self.weight.add_(self.lr * self.scale * e)
        if not self.free:
            self.weight.clamp_min_(0.0)
        return combined

    def slow_down(self, factor: float) -> None:
        """As published, lambda moves more slowly too."""
        if self.free:
            self.lr *= factor


def _one_each(weight: Tensor, searches: Tensor) -> Tensor:
    """The weight as a tensor like ``searches``; made once, because a recorded step must find it where it was."""
    if weight.shape == searches.shape and weight.device == searches.device:
        return weight
    return weight.to(searches.device).expand_as(searches).clone()
