"""Kernels that operators launch on a GPU, by the rules of PyTorch's own source.

One kernel for an operator, but: a list operator takes many tensors in one kernel where ``ForeachUtils.h`` allows the
fast path, and one a tensor where not; a convolution's backward pass is one for each gradient that is wanted.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tests.gpu.calls import Call

LISTS = ("_foreach", "_fused")
TENSORS_A_KERNEL = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}  # depth_to_max_tensors of MultiTensorApply.cuh
FUSED_LISTS = {"_fused_sgd_": 3, "_fused_adam_": 4, "_fused_adamw_": 4}  # without an optimiser's step counts
TENSORS_A_CAT = 128  # CAT_ARRAY_BATCH_SIZE of Shape.cu
NOT_KERNELS = {
    "empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "detach", "alias", "lift_fresh",
    "_unsafe_view", "_reshape_alias", "set_",
}  # fmt: skip


def is_kernel(call: Call) -> bool:
    """False for views and for what only allocates."""
    return not (call.func.is_view or call.name in NOT_KERNELS)


def launches(call: Call) -> int:
    """Kernels of one operator."""
    if call.name.startswith(LISTS):
        lists = _lists(call)
        if slow_list(call):
            return len(lists[0])
        kernels = math.ceil(len(lists[0]) / TENSORS_A_KERNEL[min(len(lists), 5)])
        return 2 * kernels if "norm" in call.name else kernels
    if call.name == "convolution_backward":
        return sum(map(bool, call.args[10][:2]))
    if call.name in ("cat", "stack"):
        return math.ceil(len(call.args[0]) / TENSORS_A_CAT)
    return 1


def slow_list(call: Call) -> bool:
    """True for a list operator that launches a kernel a tensor: ``check_fast_path_restrictions`` fails."""
    lists = _lists(call) if call.name.startswith(LISTS) else []
    if not lists:
        return False
    if call.name.startswith("_fused"):
        lists = lists[: FUSED_LISTS.get(call.name, 1)]
    first = lists[0]
    plain = all(t.device == first[0].device and t.dtype == first[0].dtype and _dense(t) for own in lists for t in own)
    alike = all(_same_layout(t, other) for own in lists[1:] for t, other in zip(first, own))
    scalars = [a for a in call.args[1:] if isinstance(a, (int, float))]
    promoted = any(_promoted(t.dtype, scalar) for t in first for scalar in scalars)
    return not (plain and alike) or promoted


def _lists(call: Call) -> list[list[Tensor]]:
    return [a for a in call.args if isinstance(a, (list, tuple)) and a and isinstance(a[0], Tensor)]


def _dense(tensor: Tensor) -> bool:
    """``is_non_overlapping_and_dense``: some order of its dimensions is contiguous."""
    expected = 1
    for stride, size in sorted((st, si) for st, si in zip(tensor.stride(), tensor.shape) if si != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def _promoted(dtype: torch.dtype, scalar: float) -> bool:
    return torch.result_type(torch.empty((), dtype=dtype), scalar) != dtype


def _same_layout(one: Tensor, other: Tensor) -> bool:
    def strides(tensor: Tensor) -> list[Any]:
        return [stride for stride, size in zip(tensor.stride(), tensor.shape) if size != 1]

    return one.shape == other.shape and strides(one) == strides(other)
