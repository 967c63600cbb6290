"""Normalisation reduced to its affine part: what SynFlow scores, for batch statistics would undo the flow."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import MethodType
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode

NORMALISATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Every normalisation layer of torch; _NormBase is the base of batch, synchronised and instance normalisation."""

_TRAILING = (F.layer_norm, F.rms_norm)
_SIGNATURES: dict[Callable[..., Any], inspect.Signature] = {
    function: inspect.signature(function) for function in (F.batch_norm, F.instance_norm, F.group_norm, *_TRAILING)
}


def act_as_affine_(network: nn.Module) -> nn.Module:
    """Makes every normalisation layer compute x * weight + bias, as if mean were 0 and variance 1 (2006.05467).

    No statistics are taken, so a batch of one on a 1x1 map works; a layer without an affine part passes its input
    on. The layers are put in evaluation mode, and their ``forward`` is set on the instance, which a deepcopy keeps.

    Args:
        network: A network that the caller owns alone: it is changed for good.

    Returns:
        The network itself.
    """
    for module in network.modules():
        if isinstance(module, NORMALISATIONS):
            # In training mode a layer would count batches, and SyncBatchNorm would wait for the other processes.
            module.eval()
            module.forward = MethodType(_forward_as_affine, module)  # type: ignore[method-assign]
    return network


def _forward_as_affine(module: nn.Module, x: Tensor) -> Any:
    # The layer's own forward runs, so that subclasses that permute dimensions or add an activation keep doing so.
    with _AffineOnly():
        return type(module).forward(module, x)


class _AffineOnly(TorchFunctionMode):
    """Inside it, the normalising functions of ``torch.nn.functional`` apply their affine part and nothing else."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func not in _SIGNATURES:
            return func(*args, **(kwargs or {}))
        given = _SIGNATURES[func].bind(*args, **(kwargs or {})).arguments
        x, weight, bias = given["input"], given.get("weight"), given.get("bias")
        # Layer and RMS normalisation have parameters of the last dimensions' shape, the others one a channel.
        shape = (...,) if func in _TRAILING else (slice(None), *(None,) * (x.ndim - 2))
        if weight is not None:
            x = x * weight[shape]
        return x if bias is None else x + bias[shape]
