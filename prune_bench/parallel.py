"""One cell on several devices: ranks, each of which goes through its share of every batch.

All ranks run the same code on the same weights, masks and noise. A data set gives each its share of a batch; where
that becomes something of the whole batch (a mean, a statistic, a gradient), it is summed over ranks, and so all go on
alike. In a process that is no rank nothing here does anything.

The sums stand where they are made, and Lightning's DDP is not used: it wraps a module's ``forward`` and, when
``backward`` fills ``.grad`` of the parameters it was given, replaces each by its mean over ranks. That would do for a
training. But searches take gradients by ``torch.autograd.grad``, which DDP does not see: of scores, of masks' logits
through ``functional_call`` and without ``forward``, and of gradients (GraSP, gradient matching). A mean of the ranks'
gradients is the whole batch's only if the loss is a mean over samples, which several of CTS's objectives are not.
And DDP leaves batch normalisation to each share. So to Lightning every rank is a process with one device of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_PATIENCE = timedelta(minutes=30)  # one rank may read or write for long while the others wait
_SIGNATURE = inspect.signature(F.batch_norm)


_ranks = 1


def become_rank(index: int, count: int, device: torch.device, address: str) -> None:
    """Makes this process one of those that share a cell, for good; returns when all have met.

    Args:
        index: Which it is, 0 .. count - 1.
        count: How many there are.
        device: This one's.
        address: Where they meet, as ``torch.distributed.init_process_group`` takes it.
    """
    # Said here and not asked of torch: a caller's own process group makes no ranks of ours.
    global _ranks
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=address, rank=index, world_size=count, timeout=_PATIENCE,
        device_id=device if on_gpu else None,  # or NCCL guesses the GPU at the first exchange
    )  # fmt: skip
    _ranks = count


def ranks() -> int:
    """How many processes share this cell."""
    return _ranks


def rank() -> int:
    """Which of them this one is; 0 if it is the only one."""
    return distributed.get_rank() if ranks() > 1 else 0


def share(items: Tensor) -> Tensor:
    """This rank's rows; those of all ranks together are all rows, in their order.

    Args:
        items: [B, ...], the same on every rank.

    Raises:
        ValueError: There are fewer rows than ranks.
    """
    if ranks() == 1:
        return items
    if len(items) < ranks():
        raise ValueError(f"a batch of {len(items)} cannot be shared by {ranks()} devices: lower devices.per_cell")
    return items.tensor_split(ranks())[rank()]


def summed(own: Tensor) -> Tensor:
    """The sum over ranks, of every rank's tensor of this shape; differentiable, as often as one likes.

    The gradient that each rank then takes is that of the sum of what all ranks differentiate: a rank that has a
    whole batch's loss differentiates its ``ranks()``-th part.
    """
    return own if ranks() == 1 else _Summed.apply(own)  # type: ignore[no-any-return]


def sum_(tensors: Sequence[Tensor]) -> None:
    """Replaces each tensor by its sum over ranks, in one exchange; no gradient passes."""
    if ranks() == 1:
        return
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, whole in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
        tensor.detach().copy_(whole.view(tensor.shape))


def of_first(said: bool, device: torch.device) -> bool:
    """What the first rank says.

    Args:
        said: What this one says.
        device: This one's; an exchange may need to pass through it.
    """
    if ranks() == 1:
        return said
    word = torch.tensor(int(said), device=device)
    distributed.broadcast(word, 0)
    return bool(word)


def of_all(own: Tensor, device: torch.device) -> list[Tensor]:
    """Every rank's tensor of this shape, where it lay.

    Args:
        own: This one's.
        device: This one's; an exchange may need to pass through it.
    """
    if ranks() == 1:
        return [own]
    all_ = [torch.empty_like(own, device=device) for _ in range(ranks())]
    distributed.all_gather(all_, own.to(device))
    return [each.to(own.device) for each in all_]


def batch_mean(values: Tensor) -> Tensor:
    """The mean over the whole batch and all that comes after it; differentiable.

    Args:
        values: [lanes, B, ...], of this rank's share.

    Returns:
        [lanes], the same on every rank.
    """
    after = tuple(range(1, values.dim()))
    if ranks() == 1:
        return values.mean(after)
    count = values.new_full((1,), values[0].numel())
    whole = summed(torch.cat([values.sum(after), count]))
    return whole[:-1] / whole[-1]


class WholeBatches(TorchFunctionMode):
    """Inside it, batch normalisation takes its statistics over all ranks' shares.

    By a mode rather than by layers, so that whoever calls ``torch.nn.functional.batch_norm`` has it. torch's
    SyncBatchNorm is for GPUs alone, and cannot be differentiated twice.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is not F.batch_norm or ranks() == 1:
            return func(*args, **(kwargs or {}))
        bound = _SIGNATURE.bind(*args, **(kwargs or {}))
        bound.apply_defaults()
        return _batch_norm(**bound.arguments) if bound.arguments["training"] else func(*args, **(kwargs or {}))


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        whole = own.detach().clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return summed(gradients[0])


def _batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None,
    bias: Tensor | None, training: bool, momentum: float, eps: float,
) -> Tensor:  # fmt: skip
    """``F.batch_norm`` of a whole batch [B, C, ...], given a rank's share of it; sums are of float32 at least."""
    given, input = input.dtype, input.to(torch.promote_types(input.dtype, torch.float32))
    axes, shape = (0, *range(2, input.dim())), (1, -1, *(1 for _ in input.shape[2:]))
    sums = summed(torch.cat([input.sum(axes), input.new_full((1,), input.numel() // input.shape[1])]))
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = input - mean.view(shape)
    variance = summed(centred.square().sum(axes)) / count
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean.detach(), momentum)
        running_var.lerp_(variance.detach() * (count / (count - 1)), momentum)
    outputs = centred * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        outputs = outputs * weight.view(shape)
    return (outputs if bias is None else outputs + bias.view(shape)).to(given)
