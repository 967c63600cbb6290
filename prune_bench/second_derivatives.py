"""Gradients of gradients: fused kernels have none, and the plain ones that compute the same are taken instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from prune_bench.errors import PruneBenchError

T = TypeVar("T")
_MISSING = re.compile(r"derivative for '?([\w:]+)'? is not implemented|differentiate twice .*(once_differentiable)")


@contextmanager
def differentiable_twice(wanted: bool = True) -> Iterator[None]:
    """Inside it attention is computed by matrix products and a softmax, which can be differentiated twice.

    Args:
        wanted: If false, it does nothing.
    """
    if not wanted:
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield


def try_plainly(compute: Callable[[], T], what: str) -> T:
    """``compute()``, and once more without fused recurrent layers if an operator in it has no second derivative.

    Args:
        compute: Differentiates twice; begins anew when it is called again.
        what: What is computed, for the message.

    Raises:
        PruneBenchError: An operator has no second derivative either way; names it.
    """
    with differentiable_twice():
        try:
            return compute()
        except RuntimeError as error:
            if _MISSING.search(str(error)) is None:
                raise
        # Not from the start: other kernels of convolutions give other last bits.
        with _unfused(), missing_derivative_named(what):
            return compute()


def check_ends(gradients: Iterable[Tensor]) -> None:
    """Finds operators whose backward pass is cut off for good: torch would leave their part out of a sum silently.

    Args:
        gradients: First gradients, of ``create_graph=True``.

    Raises:
        RuntimeError: There is one.
    """
    seen, left = set(), [gradient.grad_fn for gradient in gradients]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        if type(node).__name__ == "Error":
            raise RuntimeError("trying to differentiate twice a function that was marked with @once_differentiable")
        seen.add(node)
        left += [before for before, _ in node.next_functions]


@contextmanager
def _unfused() -> Iterator[None]:
    backends: Any = (torch.backends.mkldnn, torch.backends.cudnn)
    # Not by their flags(): these ask for TF32 in the old way too, which fails once it was set in the new.
    before = [backend.enabled for backend in backends]
    try:
        for backend in backends:
            backend.enabled = False
        yield
    finally:
        for backend, enabled in zip(backends, before):
            backend.enabled = enabled


@contextmanager
def missing_derivative_named(what: str) -> Iterator[None]:
    """Inside it torch's word on a missing derivative becomes an error that says what it was needed for.

    Raises:
        PruneBenchError: An operator has no second derivative.
    """
    try:
        yield
    except RuntimeError as error:
        if (found := _MISSING.search(str(error))) is None:
            raise
        operator = found.group(1) or f"marked as {found.group(2)}"
        raise PruneBenchError(
            f"{what} needs second derivatives, and the operator {operator} of this network has none: take another "
            "method, or write the layer in operations that have"
        ) from error
