"""SynFlow: pruning neural networks without any data by iteratively conserving synaptic flow (2006.05467)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from prune_bench.affine import act_as_affine_
from prune_bench.data.protocol import Batch, TrainingData
from prune_bench.errors import PruneBenchError
from prune_bench.mask import Scores, prunable_weights
from prune_bench.options import Positive
from prune_bench.pruners.base import ScoringPruner
from prune_bench.pruners.registry import pruners


@dataclass(frozen=True, kw_only=True)
class SynFlowOptions:
    """Options of SynFlow."""

    steps: Positive = 100
    """Rounds of scoring, with density**(t / steps) after round t; one round collapses layers."""


@pruners.add(
    "synflow",
    options=SynFlowOptions,
    source="2006.05467",
    summary="Synaptic flow |w * dR/dw|, in rounds, without data.",
)
class SynFlow(ScoringPruner):
    """Keeps the weights that carry the most synaptic flow (2006.05467, algorithm 1).

    R is the sum of the outputs for one all-ones input, with every parameter replaced by its absolute value and
    normalisation reduced to its affine part; computed in float64, for at depth float32 overflows.
    """

    @classmethod
    def rounds(cls, options: Any) -> int:
        """As many as the option ``steps`` says."""
        return int(options.steps)

    def batches(self, data: TrainingData) -> list[Batch]:
        """One all-ones input: no data is looked at, only its shape."""
        device = next(iter(self._weights().values())).device
        ones = torch.ones((1, *data.input_shape), dtype=torch.float64, device=device)
        return [(ones, torch.zeros(1, dtype=torch.long, device=device))]

    def score(self, batches: list[Batch]) -> Scores:
        """|w * dR/dw|, float64."""
        with torch.no_grad():
            for absolute, parameter in zip(self._linear.parameters(), self.network.parameters()):
                absolute.copy_(parameter).abs_()
        weights = prunable_weights(self._linear)
        try:
            flow = self._linear(batches[0][0]).sum()
        except (RuntimeError, IndexError) as error:
            words = f"synflow passes ones, float64, and {type(self.network).__name__} cannot take them"
            raise PruneBenchError(f"{words}: {error}") from error
        gradients = torch.autograd.grad(flow, list(weights.values()), allow_unused=True)
        self.forwards, self.backwards = self.forwards + 1, self.backwards + 1
        return {n: (w * (0 if g is None else g)).abs() for (n, w), g in zip(weights.items(), gradients)}

    @cached_property
    def _linear(self) -> nn.Module:
        """The network without its non-linear normalisation; made once, and given new weights in every round."""
        return act_as_affine_(copy.deepcopy(self.network).double().eval())
