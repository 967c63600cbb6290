"""A batch through a network in pieces: batch normalisation then takes the statistics of each piece."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Network = Callable[[Tensor], Tensor]
_SMALLEST = 2  # images of a piece: batch statistics of a single 1x1 map do not exist


def piece_count(images: int, size: int | None) -> int:
    """The fewest pieces of at most ``size`` images; one if ``size`` is None."""
    return 1 if size is None else max(1, min(-(-images // size), images // _SMALLEST))


def in_pieces(network: Network, size: int | None) -> Network:
    """``network`` as a function that runs pieces of a batch one after the other.

    Args:
        network: Function of images [B, ...].
        size: Images of the largest piece, nearly all being equal; None to run whole batches.
    """
    if size is None:
        return network
    return lambda x: torch.cat([network(piece) for piece in x.tensor_split(piece_count(len(x), size))])
