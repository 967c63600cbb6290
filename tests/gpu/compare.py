"""Results of jobs, compared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten


def same_bits(one: Any, other: Any) -> bool:
    """True if two results have the same structure, and all their tensors and numbers the same bits."""
    leaves, structure = tree_flatten(one)
    others, of_other = tree_flatten(other)
    return structure == of_other and all(map(_equal, leaves, others))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other.to(one.device))
    return repr(one) == repr(other)


def assert_close(one: Any, other: Any, tolerance: float) -> None:
    """Asserts that two results have the same structure, and their numbers differ by less than ``tolerance``.

    Args:
        one: A result.
        other: Another one, on any device.
        tolerance: Relative for large numbers, absolute for small ones.
    """
    leaves, structure = tree_flatten(one)
    others, of_other = tree_flatten(other)
    assert structure == of_other
    for leaf, of_other in zip(leaves, others):
        a, b = (torch.as_tensor(value, dtype=torch.float64).cpu() for value in (leaf, of_other))
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
