"""What a GPU refuses, waits for, or does in an order of its own; as PyTorch's source and notes say."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from tests.gpu.calls import Call
from tests.gpu.launches import is_kernel, launches, slow_list
from tests.gpu.seen import Seen, place

COPIES = {"copy_", "_to_copy", "_copy_from", "_foreach_copy_"}
READS = {"_local_scalar_dense", "equal", "is_nonzero"}
SIZES = {
    "nonzero", "masked_select", "unique_dim", "unique_consecutive", "_unique", "_unique2", "bincount",
    "repeat_interleave",
}  # fmt: skip
INDEXING = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"}

# Operators listed under torch.use_deterministic_algorithms, and those that sort: equal keys come in any order.
SCATTERING = {
    "index_add", "index_add_", "index_copy", "index_copy_", "index_put", "index_put_", "_index_put_impl_",
    "index_reduce", "index_reduce_", "put_", "scatter", "scatter_", "scatter_add", "scatter_add_", "scatter_reduce",
    "scatter_reduce_", "cumsum", "cumsum_", "histc", "bincount", "kthvalue", "median", "sort", "topk",
    "embedding_dense_backward", "_embedding_bag_dense_backward", "nll_loss2d_backward", "_ctc_loss_backward",
    "_cdist_backward", "grid_sampler_2d_backward", "grid_sampler_3d_backward", "max_pool2d_with_indices_backward",
    "max_pool3d_with_indices_backward", "adaptive_max_pool2d_backward", "_adaptive_avg_pool2d_backward",
    "_adaptive_avg_pool3d_backward", "avg_pool3d_backward", "fractional_max_pool2d_backward", "max_unpool2d",
    "reflection_pad1d_backward", "reflection_pad2d_backward", "replication_pad1d_backward",
    "replication_pad2d_backward", "upsample_linear1d_backward", "upsample_bilinear2d_backward",
    "upsample_bicubic2d_backward", "upsample_trilinear3d_backward",
    "_scaled_dot_product_flash_attention_backward", "_scaled_dot_product_efficient_attention_backward",
}  # fmt: skip


def check(call: Call, target: torch.device, seen: Seen) -> None:
    """Applies every rule to an operator.

    Args:
        call: The operator and what it is given.
        target: Device of its results.
        seen: Where it is noted.

    Raises:
        RuntimeError: A real GPU would raise it.
    """
    if (strangers := _strangers(call)) is not None:
        one, other = strangers
        words = f"Expected all tensors to be on the same device, but found at least two devices, {one} and {other}!"
        seen.fault(RuntimeError(f"{call.func}: {words}"))
    if call.generator is not None and call.generator.type != target.type:
        words = f"Expected a '{target.type}' device type for generator but found '{call.generator.type}'"
        seen.fault(RuntimeError(f"{call.func}: {words}"))
    for words in _waits(call, target, seen):
        seen.wait(words)
    if not call.on_gpu and target.type != "cuda":
        return
    if call.name in SCATTERING and not call.kwargs.get("stable"):
        seen.scattering.add((call.name, _function()))
    if slow_list(call):
        if call.name.startswith("_fused"):
            seen.fault(RuntimeError(f"{call.func}: all lists must have same dtype, device, and layout"))
        seen.slow_lists.add((call.name, _function()))
    if seen.counting and is_kernel(call):
        seen.launches[str(call.func)] += launches(call)


def _function() -> str:
    line, name = place()
    return f"{line.partition(':')[0]} {name}"


def _strangers(call: Call) -> tuple[torch.device, torch.device] | None:
    """Two devices that the operator cannot take together."""
    if not call.on_gpu or call.name in COPIES:
        return None
    tensors = _tensors((call.args, call.kwargs))
    if call.name in INDEXING and call.args[0].is_cuda:
        # Indices on the host are copied to the GPU: a wait and no fault.
        tensors = [call.args[0], *(t for t in _tensors(call.args[2:]) if t.dim() > 0)]
    elif _takes_numbers_of_the_host(call):
        tensors = [t for t in tensors if t.is_cuda or t.dim() > 0]
    first = tensors[0].device
    return next(((first, t.device) for t in tensors if t.device != first), None)


def _takes_numbers_of_the_host(call: Call) -> bool:
    """True for element-wise operators, which take 0-dim tensors of the host beside those on the GPU."""
    if torch.Tag.pointwise not in call.func.tags or call.name.startswith(("_foreach", "lerp")):
        return False
    return call.args[0].is_cuda or not call.name.endswith("_")


def _waits(call: Call, target: torch.device, seen: Seen) -> Iterator[str]:
    """Words for each reason why the host waits for the GPU."""
    if call.name in COPIES:
        yield from _copy_waits(call, target, seen)
    if not call.on_gpu:
        return
    if call.name in READS:
        yield f"{call.name} reads a value"
    if call.name in SIZES and call.kwargs.get("output_size") is None:
        yield f"{call.name} has a size that depends on values"
    if call.name in INDEXING:
        indices = _tensors(call.args[1])
        if any(t.dtype in (torch.bool, torch.uint8) for t in indices):
            yield f"{call.name} by a mask has a size that depends on values"
        if any(not t.is_cuda for t in indices):
            yield f"host->device copy of an index for {call.name}"


def _copy_waits(call: Call, target: torch.device, seen: Seen) -> Iterator[str]:
    """A copy between host and GPU waits, unless it was asked not to and the host's memory is pinned."""
    if call.name == "_to_copy":
        pairs = [(source, target) for source in _tensors(call.args)]
        asked_not_to = bool(call.kwargs.get("non_blocking"))
    else:
        pairs = [(source, aim.device) for aim, source in zip(_tensors(call.args[:1]), _tensors(call.args[1:]))]
        asked_not_to = True in (call.kwargs.get("non_blocking"), *call.args[2:])
    for source, device in pairs:
        if source.is_cuda == (device.type == "cuda"):
            continue
        if asked_not_to and (source.is_cuda or seen.is_pinned(source)):
            continue
        way = "device->host" if source.is_cuda else "host->device"
        yield f"{way} copy of {tuple(source.shape)}"


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
