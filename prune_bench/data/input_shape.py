"""The shape of a network's input, found from the network where no data tells it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from prune_bench.errors import ConfigError

_LARGE = (224, 256)
"""Sizes that a network of any size takes; the first is then used, because it has the least border."""
_USUAL = (32, 28, 64, 8, 16, 96, 128)
_MOST = 128


def find_input_shape(network: nn.Module) -> tuple[int, ...]:
    """The shape of one sample, for methods that pass something through a network without data.

    It is that of ``example_input_array``, Lightning's attribute, or else one that the network can be run on: of the
    first layer's features or channels, and of the size that fits. Where several fit, one is taken with a warning.

    Args:
        network: Convolutions or a linear layer come first in it; it is left as it is.

    Raises:
        ConfigError: None was found.
    """
    example = getattr(network, "example_input_array", None)
    if isinstance(example, Tensor):
        return tuple(example.shape[1:])
    private = copy.deepcopy(network).eval()
    fitting = [shape for shape in _candidates(private) if _runs(private, shape)]
    if not fitting:
        raise ConfigError(
            "input_shape", None, "is not known: without data, say it as the shape of one sample, such as (3, 32, 32)"
        )
    if len(fitting) > 1:
        warnings.warn(
            f"without data the input's shape is not certain, and {fitting[0]} was taken: give input_shape= or data=",
            stacklevel=2,
        )
    return fitting[0]


def _candidates(network: nn.Module) -> Iterable[tuple[int, ...]]:
    first = next((m for m in network.modules() if any(True for _ in m.parameters(recurse=False))), None)
    if isinstance(first, nn.Linear):
        return [(first.in_features,)] if _runs(network, (first.in_features,)) else [(16, first.in_features)]
    if not isinstance(first, _ConvNd):
        return []
    dims = len(first.kernel_size)
    large = [(first.in_channels, *(size,) * dims) for size in _LARGE] if dims < 3 else []
    if any(_runs(network, shape) for shape in large):
        return large
    sizes = [*_USUAL, *(size for size in range(1, _MOST + 1) if size not in _USUAL)]
    return [(first.in_channels, *(size,) * dims) for size in sizes if dims < 3 or size <= 2 * _USUAL[1]]


@torch.no_grad()
def _runs(network: nn.Module, shape: tuple[int, ...]) -> bool:
    like = next(network.parameters())
    try:
        with torch.random.fork_rng(devices=[like.device] if like.device.type == "cuda" else []):
            network(torch.ones(1, *shape, dtype=like.dtype, device=like.device))
    except Exception:  # whatever a network says of an input it cannot take
        return False
    return True
