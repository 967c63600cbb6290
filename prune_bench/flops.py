"""Floating-point operations of one forward pass, dense and under a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from prune_bench.effective import check_fits, presences, recorded
from prune_bench.mask import Mask
from prune_bench.paths import Replay
from prune_bench.tape import Tape


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Floating-point operations of one forward pass of one sample."""

    dense: int
    """Without a mask."""
    sparse: int
    """With every product that a prunable weight is a factor of times the weight's density, and all others whole."""


def flops(network: nn.Module, mask: Mask, input_shape: Sequence[int]) -> Flops:
    """Operations of convolutions and matrix products, as torch counts them: a multiply-add is two.

    Attention counts as its matrix products and a recurrent layer as its cells', on every device. A layer that runs
    twice counts twice; of layers that share a weight each counts its own operations.

    Args:
        network: The network the mask is of; it is left as it is.
        mask: Which weights are kept.
        input_shape: Shape of one sample, without the batch dimension.

    Raises:
        ValueError: The mask is of another network.
        NotKnownError: The forward pass raises.
    """
    check_fits(mask, network)
    return counted(recorded(network, input_shape), mask)


def counted(tape: Tape, mask: Mask) -> Flops:
    """:func:`flops` by a tape of the network."""
    saved = Replay(tape, presences(mask)).saved_operations()
    return Flops(dense=tape.flops // tape.batch, sparse=round((tape.flops - saved) / tape.batch))
