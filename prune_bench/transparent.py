"""A forward pass in plain operators: fused layers come apart, and what only rescales or drops passes its input on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


def outputs(
    network: nn.Module, inputs: Tensor, watch: contextlib.AbstractContextManager[Any] | None = None
) -> list[Tensor]:
    """All tensors that the network returns, as :func:`record` runs it.

    Args:
        network: In evaluation mode, on the CPU.
        inputs: Of the network's dtype, [B, ...].
        watch: Entered around the forward pass.
    """
    with _plain_kernels(), torch.random.fork_rng([]), _Transparent(), watch or contextlib.nullcontext():
        torch.default_generator.manual_seed(0)
        found = network(inputs)
    tensors = list(_tensors(found))
    if not tensors:
        raise TypeError(f"the network's output is a {type(found).__name__}, in which no tensor was found")
    return tensors


def _tensors(found: Any, depth: int = 4) -> Iterator[Tensor]:
    """Tensors in tuples, dicts and objects with attributes."""
    if isinstance(found, Tensor):
        yield found
    elif depth and isinstance(found, Mapping):
        for item in found.values():
            yield from _tensors(item, depth - 1)
    elif depth and isinstance(found, (list, tuple)):
        for item in found:
            yield from _tensors(item, depth - 1)
    elif depth and hasattr(found, "__dict__"):
        yield from _tensors(vars(found), depth - 1)


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    """Keeps torch from fusing attention and transformer layers into operators that say nothing of their parts."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _passed_on(function: Callable[..., Any], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return input.clone()


def _glu(function: Callable[..., Any], input: Tensor, dim: int = -1) -> Tensor:
    values, gates = input.chunk(2, dim)
    return values * gates.sigmoid()


def _bilinear(
    function: Callable[..., Any], input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    found = torch.einsum("...i,oij,...j->...o", input1, weight, input2)
    return found if bias is None else found + bias


def _instance_norm(function: Callable[..., Any], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Normalises each channel of a sample by itself; written so that samples do not look like channels."""
    return F.group_norm(input, input.shape[1])


def _by_cells(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    enabled = torch.backends.mkldnn.is_available() and torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        return function(*args, **kwargs)
    finally:
        torch._C._set_mkldnn_enabled(enabled)


_DROPOUT = ("dropout", "dropout_", "alpha_dropout", "alpha_dropout_", "feature_dropout", "feature_alpha_dropout")
# By name, since one name stands for torch.dropout and torch.nn.functional.dropout alike.
_HANDLERS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("batch_norm", *_DROPOUT, "dropout1d", "dropout2d", "dropout3d"), _passed_on),
    "instance_norm": _instance_norm,
    "glu": _glu,
    "bilinear": _bilinear,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _by_cells),
}


class _Transparent(TorchFunctionMode):
    """Inside it, batch normalisation and dropout pass their input on, and fused layers come apart."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        handler = _HANDLERS.get(getattr(func, "__name__", ""))
        if handler is None:
            return func(*args, **(kwargs or {}))
        return handler(func, *args, **(kwargs or {}))
