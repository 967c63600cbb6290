"""Effective masks: the kept weights that matter (2107.02306, section 3).

A kept weight that no signal reaches, or whose output nothing reads, is as good as pruned.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prune_bench.hold import released_copy
from prune_bench.mask import Mask, prunable_weights
from prune_bench.paths import NotKnownError, Replay
from prune_bench.tape import Tape, record
from prune_bench.transparent import outputs


def effective_mask(network: nn.Module, mask: Mask, input_shape: Sequence[int]) -> Mask:
    """The kept weights on a path from an input element through kept weights to an output element.

    Args:
        network: The network the mask is of; it is left as it is.
        mask: Which weights are kept.
        input_shape: Shape of one sample, without the batch dimension.

    Returns:
        A part of ``mask``, on the mask's device.

    Raises:
        ValueError: The mask is of another network.
        NotKnownError: Dependence cannot be read off the network's forward pass.
    """
    check_fits(mask, network)
    return on_paths(recorded(network, input_shape), mask, network, input_shape)


def check_fits(mask: Mask, network: nn.Module) -> None:
    """Refuses a mask of another network with a ValueError."""
    mask._check_fits(prunable_weights(network))


def recorded(network: nn.Module, input_shape: Sequence[int]) -> Tape:
    """One forward pass of the network.

    Raises:
        NotKnownError: It raises on a sample of ones.
    """
    try:
        return record(network, input_shape)
    except Exception as error:
        raise NotKnownError(
            f"its forward pass on one sample of ones raises {type(error).__name__}: {error}"
        ) from error


def on_paths(tape: Tape, mask: Mask, network: nn.Module, input_shape: Sequence[int]) -> Mask:
    """:func:`effective_mask` by a tape of the network."""
    whole = Mask({name: torch.ones_like(keep) for name, keep in mask.items()})
    found = _on_paths(tape, whole)
    if found.kept < found.total and _moves(network, found, input_shape):
        raise NotKnownError("weights of the unpruned network change its output on no path that was found")
    return found if mask == whole else _on_paths(tape, mask)


def _on_paths(tape: Tape, mask: Mask) -> Mask:
    weights = presences(mask)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        reached = Replay(tape, weights).run()
        if not reached.requires_grad:
            return Mask({name: torch.zeros_like(keep) for name, keep in mask.items()})
        flows = torch.autograd.grad(reached, list(weights.values()), allow_unused=True, materialize_grads=True)
    # Flows are whole numbers, so anything below one half is the rounding of a fast convolution.
    return Mask({name: keep & (flow > 0.5).to(keep.device) for (name, keep), flow in zip(mask.items(), flows)})


def presences(mask: Mask) -> dict[str, Tensor]:
    """1.0 where a weight is kept and 0.0 elsewhere, on the CPU, ready for gradients."""
    with torch.inference_mode(False):
        return {name: keep.detach().cpu().clone().float().requires_grad_() for name, keep in mask.items()}


def _moves(network: nn.Module, found: Mask, input_shape: Sequence[int]) -> bool:
    """Whether outputs change with the weights that ``found`` lacks: the check on a full mask that is not effective.

    It may lack taps that only meet padding and layers that are not run. No output changes with those.
    """
    random = torch.Generator().manual_seed(0)
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        private = released_copy(network).cpu().float().eval()
        for parameter in private.parameters():
            if parameter.is_floating_point():  # zeros would hide what lies before them
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
        inputs = torch.randn(2, *input_shape, generator=random)
        before = outputs(private, inputs)
        for name, weight in prunable_weights(private).items():
            weight.add_(torch.randn(weight.shape, generator=random) * ~found[name].cpu())
        after = outputs(private, inputs)
    return any(bool(((a - b).abs() > 1e-4 * b.abs().amax()).any()) for a, b in zip(after, before) if b.numel())
