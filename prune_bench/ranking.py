"""Rankings: every prunable weight in one order, from the first to be pruned to the last.

What a pruner finds is a ranking; the ticket of any density is its top, the inverted ticket its bottom.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from prune_bench.mask import Mask, Scores, kept_count
from prune_bench.parallel import of_all, ranks
from prune_bench.ties import Ties, groups_of, tied_at


class Ranking:
    """A total order of the prunable weights.

    Args:
        layers: Integer tensors of the weights' shapes whose values together are 0 .. N-1; N-1 is pruned last.
        ordered: Scores that the highest ranks come from, highest first; None if they are not at hand.
        survived: int32 [N], for each weight the size of the largest tie in which an earlier round kept it.
    """

    def __init__(
        self, layers: Mapping[str, Tensor], ordered: Tensor | None = None, survived: Tensor | None = None
    ) -> None:
        self.layers = dict(layers)
        self._ordered, self._survived = ordered, survived

    @classmethod
    def from_scores(cls, scores: Scores) -> Ranking:
        """Ranks by score; of equal scores the one that comes first in module order ranks higher.

        Raises:
            FloatingPointError: A score is not finite: a mask could be made of it all the same, and would be noise.
        """
        ranks, ordered = _ranks(_finite(scores))
        return cls(_shaped(ranks, scores), ordered)

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
        flat = _finite(scores)
        ranks = self._flat().to(flat.device)
        pruned = self.total - alive
        above = ranks >= pruned
        survived = self._survivors(ranks, alive)
        own, ordered = _ranks(flat[above])
        ranks[above] = own + pruned
        return Ranking(_shaped(ranks, scores), ordered, survived)

    @property
    def ties(self) -> Ties:
        """Its equal scores, as far as they are at hand."""
        if self._ordered is None:
            return Ties()
        groups, survived = groups_of(self._ordered, self.total), self._survived
        if survived is None:
            return Ties(groups)
        ranks, sizes = self._flat().to(survived.device), survived[survived > 0].unique().tolist()
        return Ties(groups, tuple((int(ranks[survived == size].max()), size) for size in sizes))

    def _survivors(self, ranks: Tensor, alive: int) -> Tensor | None:
        """What :attr:`_survived` is when only the ``alive`` highest go on."""
        above, size = (0, 0) if self._ordered is None else tied_at(self._ordered, alive)
        if not size:
            return self._survived
        survived = torch.zeros_like(ranks) if self._survived is None else self._survived.to(ranks)
        pruned = self.total - alive
        stayed = (ranks >= pruned) & (ranks < pruned + above)
        return torch.where(stayed, survived.clamp_min(size), survived)

    def _flat(self) -> Tensor:
        return torch.cat([own.flatten() for own in self.layers.values()])

    def to(self, device: torch.device | str) -> Ranking:
        """The same ranking on ``device``."""
        return Ranking({name: own.to(device) for name, own in self.layers.items()}, self._ordered, self._survived)


def check_agreement(found: Sequence[Mapping[float, Ranking]], method: str, device: torch.device) -> None:
    """Checks that all processes that share a cell have found the same rankings; each would train its own mask.

    Args:
        found: For each lane its rankings by density, on any device.
        method: What found them.
        device: This process's.

    Raises:
        RuntimeError: They have not, in every process alike.
    """
    if ranks() == 1:
        return
    sha = hashlib.sha256()
    for rankings in found:
        for density, ranking in rankings.items():
            sha.update(repr((density, list(ranking.layers))).encode())
            for own in ranking.layers.values():
                sha.update(own.to("cpu", torch.int64).contiguous().numpy().tobytes())
    mine = torch.tensor(list(sha.digest()), dtype=torch.int64)
    if any(not torch.equal(mine, theirs) for theirs in of_all(mine, device)):
        raise RuntimeError(
            f"{method} has found another ranking in each of the {ranks()} processes that share this cell: what it "
            "computes of a share of a batch must be summed over them (prune_bench.parallel.sum_), and drawn from its "
            "own generator; or set devices.per_cell=1"
        )


def _finite(scores: Scores) -> Tensor:
    """All scores, [N]."""
    flat = torch.cat([s.detach().flatten() for s in scores.values()])
    if not bool(torch.isfinite(flat).all()):
        broken = [name for name, s in scores.items() if not bool(torch.isfinite(s).all())]
        raise FloatingPointError(f"scores are not finite in {', '.join(broken[:4])}")
    return flat


def _ranks(flat: Tensor) -> tuple[Tensor, Tensor]:
    """The rank of each of N scores, int32, and the scores, highest first."""
    ranks = torch.empty(flat.numel(), dtype=torch.int32, device=flat.device)
    ordered, order = torch.sort(flat, descending=True, stable=True)
    ranks[order] = torch.arange(flat.numel() - 1, -1, -1, dtype=torch.int32, device=flat.device)
    return ranks, ordered


def _shaped(flat: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    pieces = flat.split([tensor.numel() for tensor in like.values()])
    return {name: piece.view(tensor.shape) for (name, tensor), piece in zip(like.items(), pieces)}
