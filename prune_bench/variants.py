"""Sanity variants of a ticket: what it must lose when it is spoilt, if it was worth anything.

``layer_shuffle`` and ``invert`` change the mask, ``reinit`` the weights (2009.08576, 2009.11094).
"""

from __future__ import annotations

from prune_bench.config import Variant
from prune_bench.mask import Mask
from prune_bench.ranking import Ranking

MEANINGS: dict[Variant, str] = {
    "original": "the ticket as it was found",
    "layer_shuffle": "the mask permuted inside each layer: layer counts stay, positions do not",
    "reinit": "the same mask on fresh weights of the same initialiser; at init only",
    "invert": "the mask of the worst weights, as many as the ticket has",
}


def variant_mask(ranking: Ranking, density: float, variant: Variant, seed: int) -> Mask:
    """The mask of a variant of the ticket at ``density``.

    Args:
        ranking: What the pruner found.
        density: Kept fraction.
        variant: Which variant; for ``reinit`` it is the original's, the weights being what changes.
        seed: Names the shuffle's draws.
    """
    if variant == "invert":
        return ranking.worst(density)
    mask = ranking.mask(density)
    return mask.shuffle_layers(seed) if variant == "layer_shuffle" else mask
