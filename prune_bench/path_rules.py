"""How each operator of torch spreads what is carried: which elements of its output hang on which of its input.

An element-wise operator is known by torch's own tag. Operators that move, pad or interpolate elements are applied to
the zeros and ones themselves. The others are listed by the dimensions that they mix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from prune_bench.tape import Ref, Step


class Carrier(Protocol):
    """What is carried: signal or presence."""

    presence: bool

    def of(self, value: Any) -> Tensor:
        """Zeros and ones of an argument; a number for what is no tensor."""

    def has(self, value: Any) -> bool:
        """Whether an argument can hold anything but zeros."""


def spread(step: Step, carrier: Carrier) -> Sequence[Tensor] | None:
    """What each output of the step hangs on, 0 or more; None where there is no rule for the operator."""
    rule = _RULES.get(step.name)
    if rule is not None:
        return rule(step, carrier)
    return _pointwise(step, carrier) if is_pointwise(step) else None


def is_pointwise(step: Step) -> bool:
    """Whether each output element hangs on the elements at its own place only."""
    return torch.Tag.pointwise in step.op.tags or step.name in _POINTWISE


def from_nothing(step: Step) -> float:
    """1 where an element-wise operator makes something of zeros, as a sigmoid does; else 0."""
    if step.name in _RULES or not is_pointwise(step):
        return 0.0
    zeros = {n: torch.zeros(()) if isinstance(v, Ref) else v for n, v in step.arguments.items()}
    try:
        return float((step.op(**zeros) != 0).any())
    except (RuntimeError, TypeError):  # of operators that do not take zeros, something is expected
        return 1.0


def _sum(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _everything(step: Step, carrier: Carrier) -> list[Tensor]:
    total = _sum([carrier.of(ref).sum() for _, ref in step.refs()])
    return [total.expand(out.size) for out in step.outs]


def _pointwise(step: Step, carrier: Carrier) -> list[Tensor]:
    parts = [carrier.of(ref) for _, ref in step.refs() if carrier.has(ref)] or [torch.zeros(())]
    total = _sum(parts)
    return [total.expand(out.size) if 0 not in out.size else torch.zeros(out.size) for out in step.outs]


def _moved(step: Step, carrier: Carrier) -> list[Tensor]:
    """The operator itself, run on what is carried; an index that is no constant may point anywhere."""
    arguments: dict[str, Any] = {}
    for name, value in step.arguments.items():
        if name in _INDICES:
            if any(ref.value is None for ref in _refs(value)):
                return _everything(step, carrier)
            arguments[name] = _each(value, lambda ref: ref.value)
        elif name in _FILLS and not isinstance(value, Ref):
            arguments[name] = float(carrier.presence and bool(value))
        elif name not in _ABOUT_MEMORY:
            arguments[name] = _each(value, carrier.of)
    op = step.op
    if op._schema.is_mutable:  # what is carried is never overwritten
        op = getattr(getattr(torch.ops.aten, step.name), op._overloadname)
    found = op(**arguments)
    return [found] if isinstance(found, Tensor) else list(found)


def _refs(value: Any) -> list[Ref]:
    return [item for item in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(item, Ref)]


def _each(value: Any, change: Callable[[Ref], Any]) -> Any:
    if isinstance(value, (list, tuple)):
        return [_each(item, change) for item in value]
    return change(value) if isinstance(value, Ref) else value


def _index_put(step: Step, carrier: Carrier) -> list[Tensor]:
    """Under a mask that depends on the input, an element is the old one or the new one."""
    (mask, *more), x = _refs(step.arguments["indices"]), step.arguments["self"]
    if more or mask.value is not None or mask.size != x.size[: len(mask.size)]:
        return _moved(step, carrier)
    choice = carrier.of(mask).view(*mask.size, *(1,) * (len(x.size) - len(mask.size)))
    return [carrier.of(x) + choice + carrier.of(step.arguments["values"]).sum()]


def _reduced(step: Step, carrier: Carrier) -> list[Tensor]:
    x = carrier.of(step.arguments["self"])
    dims = _dims(step, x.ndim)
    total = x.sum(dims) if dims else x
    return [total.reshape(out.size) for out in step.outs]


def _mixed(step: Step, carrier: Carrier) -> list[Tensor]:
    x = carrier.of(step.arguments["self"])
    dims = _dims(step, x.ndim)
    total = x.sum(dims, keepdim=True) if dims else x
    return [total.expand(out.size) for out in step.outs]


def _dims(step: Step, ndim: int) -> list[int]:
    dim = step.arguments.get("dim")
    if dim is None or dim == []:
        return list(range(ndim))
    return [d % ndim for d in ([dim] if isinstance(dim, int) else dim)] if ndim else []


def _accumulated(step: Step, carrier: Carrier) -> list[Tensor]:
    x = carrier.of(step.arguments["self"])
    total = x.cumsum(step.arguments["dim"]) if x.ndim else x
    return [total for _ in step.outs]


def _softmax(step: Step, carrier: Carrier) -> list[Tensor]:
    """Mixes along one dimension what no constant mask has closed; of nothing it makes something."""
    x, open_ = carrier.of(step.arguments["self"]), cast("Tensor", step.open)
    if carrier.presence:
        return [open_]
    return [(x * open_).sum(step.arguments["dim"], keepdim=True) * open_ if x.ndim else x]


def _log_softmax(step: Step, carrier: Carrier) -> list[Tensor]:
    (mixed,) = _softmax(step, carrier)
    return [mixed + carrier.of(step.arguments["self"])]


def _layer_norm(step: Step, carrier: Carrier) -> list[Tensor]:
    """Mean and variance of a sample hang on all that is normalised together."""
    x, dims = carrier.of(step.arguments["input"]), len(step.arguments["normalized_shape"])
    total = x.sum(list(range(x.ndim - dims, x.ndim)), keepdim=True)
    return [total.expand(out.size) for out in step.outs]


def _group_norm(step: Step, carrier: Carrier) -> list[Tensor]:
    x, groups = carrier.of(step.arguments["input"]), step.arguments["group"]
    total = x.reshape(x.shape[0], groups, -1).sum(2)
    per_channel = total.repeat_interleave(x.shape[1] // groups, 1)
    return [per_channel.view(*per_channel.shape, *(1,) * (x.ndim - 2)).expand_as(x), total, total]


def _batch_norm(step: Step, carrier: Carrier) -> list[Tensor]:
    x = carrier.of(step.arguments["input"])
    return [x, *(torch.zeros(out.size) for out in step.outs[1:])]


def _where(step: Step, carrier: Carrier) -> list[Tensor]:
    condition, a, b = (step.arguments[name] for name in ("condition", "self", "other"))
    if condition.value is None:
        return [_sum([carrier.of(ref) for ref in (condition, a, b)]).expand(step.outs[0].size)]
    return [torch.where(condition.value, carrier.of(a), carrier.of(b))]


def _masked_fill(step: Step, carrier: Carrier) -> list[Tensor]:
    x, mask, value = (step.arguments[name] for name in ("self", "mask", "value"))
    filled = carrier.of(value) if carrier.has(value) else torch.zeros(())
    if mask.value is None:
        return [_sum([carrier.of(x), carrier.of(mask), filled]).expand(step.outs[0].size)]
    return [torch.where(mask.value, filled, carrier.of(x))]


def _overwritten(step: Step, carrier: Carrier) -> list[Tensor]:
    """`copy_` and `fill_`: what was there before is gone."""
    new = step.arguments["src" if "src" in step.arguments else "value"]
    return [(carrier.of(new) if carrier.has(new) else torch.zeros(())).expand(step.outs[0].size)]


def _zeros(step: Step, carrier: Carrier) -> list[Tensor]:
    return [torch.zeros(out.size) for out in step.outs]


def _embedding(step: Step, carrier: Carrier) -> list[Tensor]:
    """A row chosen by a constant is that row; one chosen by the input may be any."""
    table, indices = step.arguments["weight"], step.arguments["indices"]
    if indices.value is not None:
        return [F.embedding(indices.value, carrier.of(table))]
    any_row = carrier.of(table).sum(0)
    return [(carrier.of(indices).unsqueeze(-1) + any_row).expand(step.outs[0].size)]


def _distances(step: Step, carrier: Carrier) -> list[Tensor]:
    rows, columns = (carrier.of(step.arguments[name]).sum(-1) for name in ("x1", "x2"))
    return [rows.unsqueeze(-1) + columns.unsqueeze(-2)]


def _max_pool(step: Step, carrier: Carrier) -> list[Tensor]:
    """A sum over each window: any of its elements may be the largest."""
    x, dims = carrier.of(step.arguments["self"]), int(step.name[8])
    given = [step.arguments[name] for name in ("kernel_size", "stride", "padding", "dilation")]
    sizes = [list(n) * dims if len(n) == 1 else list(n) for n in (given[0], given[1] or given[0], *given[2:])]
    for axis, (kernel, stride, pad, spacing) in zip(range(-dims, 0), zip(*sizes)):
        starts = torch.arange(step.outs[0].size[axis]) * stride - pad
        x = _sum_windows(x, axis, starts, starts + (kernel - 1) * spacing + 1, spacing)
    return [x for _ in step.outs]


def _adaptive_max_pool(step: Step, carrier: Carrier) -> list[Tensor]:
    x = carrier.of(step.arguments["self"])
    for axis in range(-int(step.name[-2]), 0):
        length, windows = x.shape[axis], step.outs[0].size[axis]
        starts = torch.arange(windows) * length // windows
        ends = -(-torch.arange(1, windows + 1) * length // windows)
        x = _sum_windows(x, axis, starts, ends, 1)
    return [x for _ in step.outs]


def _sum_windows(x: Tensor, axis: int, starts: Tensor, ends: Tensor, spacing: int) -> Tensor:
    """Sums every ``spacing``-th element of each window [start, end) along ``axis``; outside ``x`` is nothing."""
    place = torch.arange(x.shape[axis]).unsqueeze(1)
    inside = (place >= starts) & (place < ends) & ((place - starts) % spacing == 0)
    return (x.movedim(axis, -1) @ inside.to(x)).movedim(-1, axis)


_INDICES = {"index", "indices", "mask", "grid"}
_FILLS = {"value"}
_ABOUT_MEMORY = {"dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking"}
_POINTWISE = {"_to_copy", "_prelu_kernel", "rsub", "hardswish", "hardsigmoid", "mish", "complex", "polar"}
_POINTWISE |= {"rrelu_with_noise", "log_sigmoid_forward", "softshrink", "hardshrink", "bucketize", "cross"}
_MOVED = [
    "cat", "stack", "index", "index_select", "gather", "take", "roll", "flip", "repeat", "tril", "triu",
    "trace", "diag_embed", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "im2col", "col2im", "unfold_copy", "pixel_shuffle",
    "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "upsample_nearest1d", "upsample_nearest2d",
    "upsample_nearest3d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d",
    "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "_upsample_bilinear2d_aa",
    "grid_sampler_2d", "grid_sampler_3d", "max_unpool2d", "index_add", "index_copy", "index_fill", "scatter",
    "scatter_add", "select_scatter", "slice_scatter", "diagonal_scatter", "masked_scatter", "max_unpool3d",
]  # fmt: skip
_REDUCED = [
    "sum", "mean", "nansum", "amax", "amin", "max", "min", "aminmax", "argmax", "argmin", "prod", "var", "std",
    "var_mean", "std_mean", "norm", "linalg_vector_norm", "logsumexp", "any", "all", "count_nonzero", "median",
    "nanmedian", "mode", "kthvalue",
]  # fmt: skip
_RULES: dict[str, Callable[[Step, Carrier], list[Tensor]]] = {
    **dict.fromkeys(_MOVED, _moved),
    **dict.fromkeys(_REDUCED, _reduced),
    **dict.fromkeys(("sort", "argsort", "topk", "_fft_r2c", "_fft_c2r", "_fft_c2c"), _mixed),
    **dict.fromkeys(("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin"), _accumulated),
    **dict.fromkeys(("_softmax", "_safe_softmax"), _softmax),
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm"), _batch_norm),
    **dict.fromkeys(("max_pool2d_with_indices", "max_pool3d_with_indices"), _max_pool),
    **dict.fromkeys(("adaptive_max_pool2d", "adaptive_max_pool3d"), _adaptive_max_pool),
    **dict.fromkeys(("copy", "fill"), _overwritten),
    **dict.fromkeys(("_cdist_forward", "_euclidean_dist"), _distances),
    "_log_softmax": _log_softmax,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "where": _where,
    "masked_fill": _masked_fill,
    "index_put": _index_put,
    "embedding": _embedding,
    "zero": _zeros,
}
