"""The memory layout of a network's convolutions: channels-last where that is faster and changes nothing."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_leaves

from prune_bench.config import Precision
from prune_bench.randomness import draws_put_back

_SAMPLES = 2  # of a trial; batch statistics need more than one
_TRIALS = ((torch.float64, 1e-7), (torch.float32, 1e-3))  # dtype, and the difference that rounding can make
_Passes = tuple[list[Tensor], list[Tensor]]


def memory_layout(network: nn.Module, x: Tensor, *, precision: Precision, lanes: int) -> torch.memory_format:
    """Chooses the layout in which ``network`` is run.

    Channels-last makes convolutions of few channels 10 to 30 % faster on a CPU, and those of tensor cores on a GPU.
    In float32 without TF32, and for grouped convolutions, a GPU is slower with it. It is chosen only if a trial on a
    copy gives the outputs and gradients of the usual layout: not every network allows it, for example
    ``x.view(len(x), -1)`` after a convolution does not.

    Args:
        network: As it will be run; nothing of it changes, nor do the global generators.
        x: A batch, [B, ...]; its first samples are tried.
        precision: Arithmetic of the passes.
        lanes: Networks side by side in ``network``.

    Returns:
        ``torch.channels_last`` or ``torch.contiguous_format``.
    """
    if all(parameter.dim() != 4 for parameter in network.parameters()):
        return torch.contiguous_format
    if x.device.type == "cuda" and not gpu_gains(precision, lanes):
        return torch.contiguous_format
    return torch.channels_last if _same_either_way(network, x[:_SAMPLES]) else torch.contiguous_format


def gpu_gains(precision: Precision, lanes: int) -> bool:
    """Whether a GPU is faster with channels-last: tensor cores are, grouped convolutions and float32 are not."""
    return lanes == 1 and precision != "float32"


def lay_out_(network: nn.Module, layout: torch.memory_format) -> None:
    """Puts parameters and buffers of four dimensions into ``layout``, in place; others have no such layout."""
    if layout is torch.contiguous_format:  # as the caller made it
        return
    for tensor in chain(network.parameters(), network.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.to(memory_format=layout)


def _same_either_way(network: nn.Module, x: Tensor) -> bool:
    for dtype, tolerance in _TRIALS:
        try:
            usual = _passes(network, x, dtype, torch.contiguous_format)
        except Exception:  # what a network raises, in a dtype that it may not know, can be anything
            continue
        try:
            other = _passes(network, x, dtype, torch.channels_last)
        except Exception:
            return False
        return all(_close(one, two, tolerance) for one, two in zip(usual, other))
    return False


def _passes(network: nn.Module, x: Tensor, dtype: torch.dtype, layout: torch.memory_format) -> _Passes:
    """Outputs and weight gradients of a forward and a backward pass of a copy."""
    trial = copy.deepcopy(network).to(dtype)
    lay_out_(trial, layout)
    for module in trial.modules():
        if isinstance(module, _DropoutNd):  # it draws in the order of the memory
            module.eval()
    parameters = [p.requires_grad_() for p in trial.parameters() if p.is_floating_point()]
    with draws_put_back(x.device), torch.enable_grad():
        outputs = [out for out in tree_leaves(trial(x.to(dtype) if x.is_floating_point() else x)) if _counts(out)]
        loss = torch.stack([(out * torch.arange(out.numel()).view(out.shape).to(out).cos()).sum() for out in outputs])
        gradients = torch.autograd.grad(loss.sum(), parameters, allow_unused=True)
    return outputs, [gradient for gradient in gradients if gradient is not None]


def _counts(output: object) -> bool:
    return isinstance(output, Tensor) and output.is_floating_point()


def _close(one: list[Tensor], other: list[Tensor], tolerance: float) -> bool:
    """Whether they are equal up to ``tolerance`` times the largest finite value among them."""
    if [t.shape for t in one] != [t.shape for t in other]:
        return False
    finite = [tensor.detach().nan_to_num(0.0, 0.0, 0.0).abs().max() for tensor in one if tensor.numel()]
    scale = float(torch.stack(finite).max()) if finite else 0.0
    return all(torch.allclose(a, b, rtol=0.0, atol=tolerance * scale, equal_nan=True) for a, b in zip(one, other))
