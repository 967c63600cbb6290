"""GraSP: picking winning tickets before training by preserving gradient flow (2002.07376)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from prune_bench.data.protocol import Batch
from prune_bench.mask import Scores
from prune_bench.options import AboveZero
from prune_bench.parallel import share, sum_
from prune_bench.pruners.base import ScoringOptions, ScoringPruner, total
from prune_bench.pruners.registry import pruners
from prune_bench.second_derivatives import check_ends, try_plainly


@dataclass(frozen=True, kw_only=True)
class GraspOptions(ScoringOptions):
    """Options of GraSP."""

    temperature: AboveZero = 200.0
    """The logits are divided by it (2002.07376, section 5)."""
    by_magnitude: bool = False
    """Keep the largest absolute scores instead of removing the largest (2009.08576, appendix)."""


@pruners.add(
    "grasp", options=GraspOptions, source="2002.07376", summary="Gradient-flow preservation -w * (H g) at one batch."
)
class Grasp(ScoringPruner):
    """Removes the weights of the largest -w * (H g), g = dL/dw (2002.07376, equation 8)."""

    def score(self, batches: list[Batch]) -> Scores:
        """W * (H g), the negative of the paper's score, because ours are kept from the top."""
        product = try_plainly(lambda: self._hessian_times_gradient(batches), "grasp")
        scores = {name: weight * product[name] for name, weight in self._weights().items()}
        return {name: s.abs() for name, s in scores.items()} if self.options.by_magnitude else scores

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits / self.options.temperature, y)

    def _hessian_times_gradient(self, batches: list[Batch]) -> dict[str, Tensor]:
        self.forwards = self.backwards = 0
        return self._hessian_product(batches, total(self.gradients(batches, self._loss)))

    def _hessian_product(self, batches: list[Batch], vector: dict[str, Tensor]) -> dict[str, Tensor]:
        """H times ``vector``, by differentiating vector^T dL/dw with the vector held fixed."""
        weights = self._weights()
        samples = sum(len(y) for _, y in batches)
        product = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for x, y in batches:
            own = share(y)
            loss = self._loss(self.network(share(x)), own) * (len(own) / samples)
            first = torch.autograd.grad(loss, list(weights.values()), create_graph=True, allow_unused=True)
            check_ends(g for g in first if g is not None)
            inner = torch.stack([(g * vector[n]).sum() for n, g in zip(weights, first) if g is not None]).sum()
            second = torch.autograd.grad(inner, list(weights.values()), allow_unused=True)
            for name, g in zip(weights, second):
                product[name] += 0 if g is None else g
            # Both convolutions of a backward pass are differentiated, by two each, and then the forward pass is.
            self.forwards, self.backwards = self.forwards + len(y), self.backwards + 4 * len(y)
        sum_(list(product.values()))
        return product
