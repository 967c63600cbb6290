"""Rankings: every prunable weight in one order, from the first to be pruned to the last.

What a pruner finds is a ranking; the ticket of any density is its top, the inverted ticket its bottom.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from prune_bench.mask import Mask, Scores, kept_count


class Ranking:
    """A total order of the prunable weights.

    Args:
        layers: Integer tensors of the weights' shapes whose values together are 0 .. N-1; N-1 is pruned last.
    """

    def __init__(self, layers: Mapping[str, Tensor]) -> None:
        self.layers = dict(layers)

    @classmethod
    def from_scores(cls, scores: Scores) -> Ranking:
        """Ranks by score; of equal scores the one that comes first in module order ranks higher.

        Raises:
            FloatingPointError: A score is not finite: a mask could be made of it all the same, and would be noise.
        """
        if broken := [name for name, s in scores.items() if not bool(torch.isfinite(s).all())]:
            raise FloatingPointError(f"scores are not finite in {', '.join(broken[:4])}")
        flat = torch.cat([s.detach().flatten() for s in scores.values()])
        ranks = torch.empty(flat.numel(), dtype=torch.int32, device=flat.device)
        order = torch.sort(flat, descending=True, stable=True).indices
        ranks[order] = torch.arange(flat.numel() - 1, -1, -1, dtype=torch.int32, device=flat.device)
        return cls(_shaped(ranks, scores))

    @property
    def total(self) -> int:
        """How many weights are ranked."""
        return sum(ranks.numel() for ranks in self.layers.values())

    def mask(self, density: float) -> Mask:
        """The ticket: the round(density x N) weights of the highest rank."""
        return self.top(kept_count(density, self.total))

    def top(self, kept: int) -> Mask:
        """The mask of the ``kept`` weights of the highest rank."""
        return Mask({name: ranks >= self.total - kept for name, ranks in self.layers.items()})

    def worst(self, density: float) -> Mask:
        """The inverted ticket: as many weights as :meth:`mask` keeps, of the lowest rank (2009.08576, section 4)."""
        kept = kept_count(density, self.total)
        return Mask({name: ranks < kept for name, ranks in self.layers.items()})

    def refine(self, scores: Scores, alive: int) -> Ranking:
        """Ranks the ``alive`` highest weights anew by ``scores``; those already pruned stay below, in their order."""
        fresh = torch.cat([ranks.flatten() for ranks in Ranking.from_scores(scores).layers.values()])
        old = torch.cat([ranks.flatten() for ranks in self.layers.values()]).to(fresh.device)
        pruned = self.total - alive
        above = old >= pruned
        ranks = old.clone()
        # Among the alive, the place of a weight is the number of alive weights whose fresh rank is lower.
        order = torch.argsort(fresh[above])
        places = torch.empty_like(order)
        places[order] = torch.arange(alive, device=fresh.device)
        ranks[above] = (places + pruned).to(ranks.dtype)
        return Ranking(_shaped(ranks, scores))

    def to(self, device: torch.device | str) -> Ranking:
        """The same ranking on ``device``."""
        return Ranking({name: ranks.to(device) for name, ranks in self.layers.items()})


def _shaped(flat: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    pieces = flat.split([tensor.numel() for tensor in like.values()])
    return {name: piece.view(tensor.shape) for (name, tensor), piece in zip(like.items(), pieces)}
