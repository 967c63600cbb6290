"""Pruning without a sweep: for people who bring their own network and loop."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from prune_bench.config import Recipe
from prune_bench.data.user import as_training_data
from prune_bench.errors import ConfigError
from prune_bench.mask import Mask, kept_count, prunable_weights
from prune_bench.options import read_options
from prune_bench.precision import products, repeatable
from prune_bench.pruners import pruners
from prune_bench.randomness import derive_seed, draws_put_back
from prune_bench.ties import message
from prune_bench.training import fit
from prune_bench.training.trainer import with_index


def find_mask(
    network: nn.Module,
    method: str,
    *,
    density: float,
    data: Any,
    seed: int = 0,
    recipe: Recipe | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> Mask:
    """Finds a ticket of any network.

    Args:
        network: Any module with convolutions or linear layers that maps a batch to logits [B, classes]. It is left
            bit for bit as it was: weights, buffers, gradients, ``requires_grad``, mode; and so are the global random
            generators.
        method: A name of :func:`prune_bench.methods`.
        density: Fraction of the prunable weights to keep, in (0, 1].
        data: A ``DataLoader``, a ``LightningDataModule`` or a list of batches (x, y). Methods that score on a few
            samples take a class-balanced sample of the first two, and all of a list.
        seed: Names every random draw.
        recipe: How to train, for methods that do (``ltr``).
        device: Where to search; the network's own if None.
        options: The method's own; ``prune-bench methods`` lists them.

    Returns:
        A mask on the network's device that keeps exactly round(density x N) weights.

    Raises:
        ConfigError: The method, an option or the density is not possible.
        ValueError: The network has nothing to prune.
        FloatingPointError: The method's scores are not finite for this network and data.
    """
    entry = pruners.find(method, "method")
    chosen: Any = read_options(entry.options, options, method)
    if not (isinstance(density, (int, float)) and 0 < density <= 1):
        raise ConfigError("density", density, "must lie in (0, 1]: it is the fraction of weights kept")
    only = entry.build.only_density
    if only is not None and density != only:
        raise ConfigError("density", density, f"is not possible: {method} knows only", allowed=[only])
    home = next(iter(prunable_weights(network).values())).device
    place = with_index(home if device is None else torch.device(device))
    with _own_randomness(seed, place), _own_modes(place):
        pruner = entry.build(network, (float(density),), chosen, recipe=recipe, seed=seed)
        batches = as_training_data(data, pruner.network, place)
        fit(pruner, pruner.work(batches), epochs=1, device=place)
    mask = pruner.tickets()[float(density)].to(home)
    assert mask.kept == kept_count(density, mask.total)
    if tied := pruner.found[float(density)].ties.at(mask.total - mask.kept):
        warnings.warn(message(method, density, tied, mask.kept), stacklevel=2)
    return mask


@contextmanager
def _own_modes(device: torch.device) -> Iterator[None]:
    """The caller's autocast, TF32, ``no_grad`` and inference mode stay outside: scores need exact gradients."""
    autocast = torch.autocast(device.type, enabled=False)
    exact = products("float32")
    with torch.inference_mode(False), torch.enable_grad(), autocast, exact, repeatable(device):
        yield


@contextmanager
def _own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Global generators for layers and loaders that draw from them, put back afterwards."""
    with draws_put_back(device):
        torch.manual_seed(derive_seed(seed, "find_mask"))
        yield
