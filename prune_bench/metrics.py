"""What is measured of a mask; :data:`prune_bench.vocabulary.METRICS` names it for files, W&B, tables and plots."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import nn

from prune_bench.effective import check_fits, effective_mask, on_paths, recorded
from prune_bench.flops import Flops, counted, flops
from prune_bench.mask import Mask
from prune_bench.paths import NotKnownError

__all__ = ["Flops", "NotKnownError", "effective_mask", "flops", "mask_metrics"]


def mask_metrics(network: nn.Module, mask: Mask, input_shape: Sequence[int]) -> dict[str, float | int | bool | None]:
    """What can be told of a mask without training; None where it cannot be, with one warning that says why.

    Args:
        network: The network the mask is of; it is left as it is.
        mask: Which weights are kept.
        input_shape: Shape of one sample, without the batch dimension.

    Raises:
        ValueError: The mask is of another network.
    """
    check_fits(mask, network)
    found: dict[str, float | int | bool | None] = {
        "kept": mask.kept,
        "total": mask.total,
        "density": mask.density,
        "effective_density": None,
        "collapsed": None,
        "empty_layers": sum(not bool(keep.any()) for keep in mask.values()),
        "flops/dense": None,
        "flops/sparse": None,
    }
    try:
        tape = recorded(network, input_shape)
        operations = counted(tape, mask)
        found |= {"flops/dense": operations.dense, "flops/sparse": operations.sparse}
        effective = on_paths(tape, mask, network, input_shape)
        found |= {"effective_density": effective.density, "collapsed": effective.kept == 0}
    except NotKnownError as reason:
        unknown = "effective density" if found["flops/dense"] is not None else "effective density and FLOPs"
        warnings.warn(f"{unknown} of {type(network).__name__} not known: {reason}", stacklevel=2)
    return found
