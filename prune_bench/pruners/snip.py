"""SNIP: single-shot network pruning based on connection sensitivity (1810.02340)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch.nn import functional as F

from prune_bench.data.protocol import Batch
from prune_bench.mask import Scores
from prune_bench.options import Positive
from prune_bench.pruners.base import ScoringOptions, ScoringPruner, total
from prune_bench.pruners.registry import pruners


@dataclass(frozen=True, kw_only=True)
class SnipOptions(ScoringOptions):
    """Options of SNIP."""

    steps: Positive = 1
    """Rounds of scoring; above 1 it is iterative SNIP (2006.09081), with density**(t / steps) after round t."""
    accumulate: Literal["signed", "absolute"] = "signed"
    """How micro-batches add up: gradients first and one absolute value, or the absolute values."""


@pruners.add(
    "snip", options=SnipOptions, source="1810.02340", summary="Connection sensitivity |w * dL/dw| at one batch."
)
class Snip(ScoringPruner):
    """Keeps the weights of the largest |w * dL/dw| on a class-balanced batch (1810.02340, equation 4)."""

    @classmethod
    def rounds(cls, options: Any) -> int:
        """As many as the option ``steps`` says."""
        return int(options.steps)

    def score(self, batches: list[Batch]) -> Scores:
        """|w * dL/dw|."""
        gradients = self.gradients(batches, F.cross_entropy)
        if self.options.accumulate == "absolute":
            gradients = [{name: g.abs() for name, g in share.items()} for share in gradients]
        summed = total(gradients)
        return {name: (weight * summed[name]).abs() for name, weight in self._weights().items()}
