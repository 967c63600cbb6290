"""Ties: which cuts of a ranking fall among equal scores, so that places in the network decide and not the method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_GROUPS = 1000
"""Groups that a record holds, the largest ones: any other is smaller than a thousandth of the weights."""


@dataclass(frozen=True)
class Ties:
    """Groups of equal scores, in the ranks of a finished ranking."""

    groups: tuple[tuple[int, int], ...] = ()
    """Lowest rank and size of each group of two and more."""
    survivors: tuple[tuple[int, int], ...] = ()
    """Of groups that an earlier round cut: the highest rank of a weight that stayed, and the group's size."""

    def at(self, cut: int) -> int:
        """How many equal scores the cut below rank ``cut`` separates; 0 where it separates unequal ones.

        An earlier round's cut counts where a weight that stayed by its place alone is still kept.
        """
        split = [size for lowest, size in self.groups if lowest < cut < lowest + size]
        return max(split + [size for highest, size in self.survivors if highest >= cut], default=0)

    def record(self) -> dict[str, list[tuple[int, int]]]:
        """As JSON holds it."""
        return {"groups": list(self.groups), "survivors": list(self.survivors)}

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Ties | None:
        """What :meth:`record` made, from an artifact's record; None of artifacts without it."""
        if (found := record.get("ties")) is None:
            return None
        return cls(*(tuple((a, b) for a, b in found[name]) for name in ("groups", "survivors")))


def groups_of(ordered: Tensor, total: int) -> tuple[tuple[int, int], ...]:
    """Groups of two and more equal scores, the largest ones.

    Args:
        ordered: Scores of the weights of the highest ranks, [n], the highest score first.
        total: Weights that are ranked.
    """
    _, counts = torch.unique_consecutive(ordered, return_counts=True)
    lowest = total - counts.cumsum(0)
    sizes, chosen = counts.sort(descending=True, stable=True)
    several = int((sizes[:_GROUPS] > 1).sum())
    return tuple(zip(lowest[chosen[:several]].tolist(), sizes[:several].tolist()))


def tied_at(ordered: Tensor, kept: int) -> tuple[int, int]:
    """How many scores above the cut, and how many in all, equal the last one kept; zeros if the next one differs."""
    if not 0 < kept < len(ordered) or bool(ordered[kept - 1] != ordered[kept]):
        return 0, 0
    equal = ordered == ordered[kept]
    return int(equal[:kept].sum()), int(equal.sum())


def message(method: str, density: float, tied: int, kept: int) -> str:
    """What a user is to know of a tie."""
    return (
        f"{method} at density {density:.4g}: the cut falls among {tied} equal scores ({kept} weights are kept); "
        "which of them are kept follows their order in the network and not the method"
    )
