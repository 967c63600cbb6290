"""What is measured of a mask, and the one vocabulary of metrics that files, W&B, tables and plots share.

Effective density counts the weights that matter: a kept weight that no signal reaches, or whose output nothing
reads, is as good as pruned.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from prune_bench.mask import Mask, prunable_weights


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Floating-point operations of one forward pass of one sample."""

    dense: int
    """Without a mask."""
    sparse: int
    """With the operations of every prunable layer's own forward times its density, and all others whole."""


def mask_metrics(network: nn.Module, mask: Mask, input_shape: Sequence[int]) -> dict[str, float | int | bool]:
    """What can be told of a mask without training, never NaN; :data:`prune_bench.vocabulary.METRICS` names it.

    Args:
        network: The network the mask is of; it is left as it is.
        mask: Which weights are kept.
        input_shape: Of one sample, without the batch dimension.

    Raises:
        ValueError: The mask is of another network.
    """
    effective = effective_mask(network, mask, input_shape)
    operations = flops(network, mask, input_shape)
    return {
        "kept": mask.kept,
        "total": mask.total,
        "density": mask.density,
        "effective_density": effective.density,
        "collapsed": effective.kept == 0,
        "empty_layers": sum(not bool(keep.any()) for keep in mask.values()),
        "flops/dense": operations.dense,
        "flops/sparse": operations.sparse,
    }


def flops(network: nn.Module, mask: Mask, input_shape: Sequence[int]) -> Flops:
    """Operations of convolutions and matrix products, as torch counts them: a multiply-add is two.

    A layer that runs twice counts twice; of layers that share a weight each counts its own operations.

    Args:
        network: The network the mask is of; it is left as it is.
        mask: Which weights are kept.
        input_shape: Of one sample, without the batch dimension.

    Raises:
        ValueError: The mask is of another network.
    """
    # With gradients, for without them torch fuses attention into one operation that its counter does not know.
    with _undisturbed(network) as device, torch.enable_grad():
        private = copy.deepcopy(network).float().eval().requires_grad_()
        mask.apply_(private)
        # Normalisation by the batch's own statistics needs more than one value a channel, hence two samples.
        total, saved = _count(private, mask.layer_densities, torch.ones(2, *input_shape, device=device))
    return Flops(dense=total // 2, sparse=round((total - saved) / 2))


def _count(private: nn.Module, densities: Mapping[str, float], inputs: Tensor) -> tuple[int, float]:
    """Operations of one forward pass, and how many of them the densities save."""
    density_of = {id(weight): densities[name] for name, weight in prunable_weights(private).items()}
    counter = FlopCounterMode(display=False)
    began: list[int] = []
    saved = 0.0

    def before(module: nn.Module, args: Any) -> None:
        began.append(counter.get_total_flops())

    def after(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal saved
        saved += (counter.get_total_flops() - began.pop()) * (1 - density_of.get(id(module.weight), 1.0))

    for module in private.modules():
        if isinstance(module, (_ConvNd, nn.Linear)):
            module.register_forward_pre_hook(before)
            module.register_forward_hook(after)
    with counter:
        private(inputs)
    return counter.get_total_flops(), saved


def effective_mask(network: nn.Module, mask: Mask, input_shape: Sequence[int]) -> Mask:
    """The kept weights that lie on a path from input to output through kept weights (2107.02306, section 3).

    A path runs through single positions: a kept tap of a kernel that only ever meets padding is not effective. Every
    element of the input and of the output counts as an end; biases are no source. The network runs once on ones,
    with kept weights 1 and others 0, and signals and gradients are cut to 0 or 1 at each layer: a weight is effective
    where a signal comes in and a gradient comes back, and no depth overflows.

    Exact where layers are joined by sums, products, concatenations, pooling and element-wise activations. A sigmoid
    or softmax that nothing reaches still puts out more than zero, and counts as a signal.

    Args:
        network: The network the mask is of; it is left as it is.
        mask: Which weights are kept.
        input_shape: Of one sample, without the batch dimension.

    Returns:
        A part of ``mask``, on the mask's device.

    Raises:
        ValueError: The mask is of another network.
    """
    with _undisturbed(network) as device:
        private = copy.deepcopy(network).float().eval()
        with torch.no_grad():
            for name, parameter in private.named_parameters():
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        mask.apply_(private)
        weights = {name: weight.requires_grad_() for name, weight in prunable_weights(private).items()}
        with torch.enable_grad(), _PathsOnly():
            reached = private(torch.ones(1, *input_shape, device=device)).sum()
        flows = torch.autograd.grad(reached, list(weights.values()), allow_unused=True, materialize_grads=True)
    # Flows are whole numbers, so anything below one half is the rounding of a fast convolution.
    effective = {name: (flow > 0.5).to(mask[name].device) for name, flow in zip(weights, flows)}
    return Mask({name: keep & effective[name] for name, keep in mask.items()})


@contextmanager
def _undisturbed(network: nn.Module) -> Iterator[torch.device]:
    """Gives the network's device; the caller's autocast and inference modes do not get in, nor draws out."""
    device = next(iter(prunable_weights(network).values())).device
    forked = [device] if device.type == "cuda" else []
    with torch.inference_mode(False), torch.autocast(device.type, enabled=False), torch.random.fork_rng(forked):
        yield device


class _Cut(torch.autograd.Function):
    """1 where a signal is above ``floor`` and 0 elsewhere; the same for the gradient and ``gradient_floor``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, floor: float, gradient_floor: float) -> Tensor:
        ctx.gradient_floor = gradient_floor
        return (x > floor).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return (gradient > ctx.gradient_floor).to(gradient.dtype), None, None


def _layer(function: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A convolution or linear layer between two cuts.

    Both ways it then sums zeros and ones, and what comes out is a whole number up to the rounding of fast
    convolutions, which one half as the floor keeps out; elsewhere true zeros stay zero and 0 is the floor.
    """
    return cast("Tensor", _Cut.apply(function(_Cut.apply(input, 0.0, 0.5), *args, **kwargs), 0.5, 0.0))


def _same(function: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Signals are never negative: normalisation, dropout and zero-preserving activations move none to or from 0."""
    return input


def _always(function: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """1 whatever arrives, with the gradient passed on: a closed sigmoid gate still lets the gated signal through."""
    return 1 + (input - input.detach())


def _attention(
    function: Callable[..., tuple[Tensor, Any]], query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> tuple[Tensor, Any]:
    """Every position attends to every other: queries of zero, for large ones would underflow the softmax to zeros."""
    found, weights = function(torch.zeros_like(query), key, _Cut.apply(value, 0.0, 0.0), *args, **kwargs)
    return cast("Tensor", _Cut.apply(found, 0.0, 0.0)), weights


def _max_pool(
    function: Callable[..., Tensor],
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    **kwargs: Any,
) -> Tensor:
    """A sum over each window: a maximum would pass the gradient to one winner and kill the others' taps."""
    stride = stride or kernel_size
    pooled = function(input.detach(), kernel_size, stride, padding, dilation, **kwargs)
    dims = int(function.__name__[-2])
    sizes = [[n] * dims if isinstance(n, int) else list(n) for n in (kernel_size, stride, padding, dilation)]
    for axis, (kernel, step, pad, spread) in zip(range(-dims, 0), zip(*sizes)):
        starts = torch.arange(pooled.shape[axis]) * step - pad
        input = _sum_windows(input, axis, starts, starts + (kernel - 1) * spread + 1, spread)
    return input


def _adaptive_max_pool(function: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    pooled = function(input.detach(), *args, **kwargs)
    for axis in range(-int(function.__name__[-2]), 0):
        length, windows = input.shape[axis], pooled.shape[axis]
        starts = torch.arange(windows) * length // windows
        ends = -(-torch.arange(1, windows + 1) * length // windows)
        input = _sum_windows(input, axis, starts, ends, 1)
    return input


def _sum_windows(x: Tensor, axis: int, starts: Tensor, ends: Tensor, spread: int) -> Tensor:
    """Sums every ``spread``-th element of each window [start, end) along ``axis``; outside ``x`` there is nothing."""
    place = torch.arange(x.shape[axis]).unsqueeze(1)
    inside = (place >= starts) & (place < ends) & ((place - starts) % spread == 0)
    return (x.movedim(axis, -1) @ inside.to(x)).movedim(-1, axis)


def _amax(function: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return torch.sum(input, *args, **kwargs)


# By name, since one name stands for torch.relu, Tensor.relu and torch.nn.functional.relu alike.
_HANDLERS: dict[str, Callable[..., Any]] = {
    **{f"conv{dims}d": _layer for dims in (1, 2, 3)},
    **{f"conv_transpose{dims}d": _layer for dims in (1, 2, 3)},
    "linear": _layer,
    "multi_head_attention_forward": _attention,
    **{f"max_pool{dims}d": _max_pool for dims in (1, 2, 3)},
    **{f"adaptive_max_pool{dims}d": _adaptive_max_pool for dims in (1, 2, 3)},
    "amax": _amax,
    **dict.fromkeys(("sigmoid", "sigmoid_", "hardsigmoid", "softplus", "softmax"), _always),
    **dict.fromkeys(("batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm", "normalize"), _same),
    **dict.fromkeys(
        ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "local_response_norm"), _same
    ),
    **dict.fromkeys(("relu", "relu_", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu"), _same),
    **dict.fromkeys(("silu", "mish", "hardswish", "hardtanh", "tanh", "tanh_", "softsign", "log_softmax"), _same),
}


class _PathsOnly(TorchFunctionMode):
    """Inside it, a network computes where signals arrive, not how large they are."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        handler = _HANDLERS.get(getattr(func, "__name__", ""))
        if handler is None:
            return func(*args, **(kwargs or {}))
        return handler(func, *args, **(kwargs or {}))
