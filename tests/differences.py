"""Which weights matter, by trying: an oracle that knows nothing of how the answer is found."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from prune_bench.mask import Mask, prunable_weights


def outputs_of(found: Any) -> Tensor:
    """All output elements of each sample, [B, N]."""
    if isinstance(found, Tensor):
        return found.flatten(1)
    parts = found.values() if isinstance(found, dict) else found
    return torch.cat([outputs_of(part) for part in parts], 1)


def by_differences(network: nn.Module, mask: Mask, shape: tuple[int, ...], draws: int = 4, samples: int = 64) -> Mask:
    """The kept weights whose change changes what the network makes of different inputs.

    Weights are drawn anew several times, since one draw may close a ReLU. Biases are 0. A change that is the same for
    all inputs does not count: it comes from a constant.
    """
    found = {name: torch.zeros_like(keep) for name, keep in mask.items()}
    for draw in range(draws):
        random = torch.Generator().manual_seed(draw)
        private = copy.deepcopy(network).double().eval()
        with torch.no_grad():
            for name, parameter in private.named_parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64))
                if "bias" in name.rpartition(".")[2]:
                    parameter.zero_()
            mask.apply_(private)
            # Some inputs are large, so that thresholds are crossed.
            x = torch.randn(samples, *shape, generator=random, dtype=torch.float64)
            x[samples // 4 :] *= 10
            x[samples // 2 :] *= 50
            before = outputs_of(private(x))
            for name, weight in prunable_weights(private).items():
                flat = weight.view(-1)
                for i in (mask[name] & ~found[name]).flatten().nonzero().flatten().tolist():
                    old = flat[i].item()
                    for step in (0.5, -3.0):
                        flat[i] = old + step
                        change = outputs_of(private(x)) - before
                        scale = before.abs().amax(1, keepdim=True) + 1e-30
                        found[name].view(-1)[i] |= bool(((change - change[:1]).abs() > 1e-11 * scale).any())
                    flat[i] = old
    return Mask(found)
