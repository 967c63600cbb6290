"""Pruning without a sweep: for people who bring their own network and loop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import nn

from prune_bench.config import Recipe
from prune_bench.data.user import as_training_data
from prune_bench.errors import ConfigError, DataError
from prune_bench.mask import Mask, kept_count, prunable_weights
from prune_bench.options import read_options
from prune_bench.precision import products, repeatable
from prune_bench.pruners import pruners
from prune_bench.randomness import derive_seed, draws_put_back
from prune_bench.second_derivatives import missing_derivative_named
from prune_bench.ties import message
from prune_bench.training import fit
from prune_bench.training.trainer import with_index


def find_mask(
    network: nn.Module,
    method: str,
    *,
    density: Any,
    data: Any = None,
    input_shape: Sequence[int] | None = None,
    seed: int = 0,
    recipe: Recipe | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> Mask:
    """Finds a ticket of any network.

    Args:
        network: Any module with convolutions or linear layers that maps a batch to logits [B, classes], or to a
            tuple, mapping or object that holds them (:func:`prune_bench.wrappers.as_logits`), in a wrapper or not.
            It is left bit for bit as it was: weights, buffers, gradients, ``requires_grad``, mode; and so are the
            global random generators.
        method: A name of :func:`prune_bench.methods`.
        density: Fraction of the prunable weights to keep, in (0, 1]; any real number, a 0-d tensor too.
        data: A ``DataLoader``, a ``LightningDataModule``, a list of batches (x, y) or two tensors (x, y). Methods
            that score on a few samples take a class-balanced sample of the first two, and all of the others. None
            for methods that look at no sample, such as ``magnitude`` and ``synflow``.
        input_shape: Of one sample, for ``synflow`` without data; if None it is found by trying.
        seed: Names every random draw.
        recipe: How to train, for methods that do (``ltr``).
        device: Where to search; the network's own if None.
        options: The method's own; ``prune-bench methods`` lists them.

    Returns:
        A mask on the network's device that keeps exactly round(density x N) weights.

    Raises:
        ConfigError: The method, an option or the density is not possible, or the method needs data.
        DataError: The data, its labels or the network's outputs are not what the method needs.
        ValueError: The network has nothing to prune.
        FloatingPointError: The method's scores are not finite for this network and data.
    """
    entry = pruners.find(method, "method")
    chosen: Any = read_options(entry.options, options, method)
    density = as_density(density)
    only = entry.build.only_density
    if only is not None and density != only:
        raise ConfigError("density", density, f"is not possible: {method} knows only", allowed=[only])
    weights = prunable_weights(network)
    home, total = next(iter(weights.values())).device, sum(weight.numel() for weight in weights.values())
    if kept_count(density, total) == 0:
        raise ConfigError(
            "density", density, f"keeps none of the {total} prunable weights: it must be above {0.5 / total:.2g}"
        )
    place = with_index(home if device is None else torch.device(device))
    with _own_randomness(seed, place), _own_modes(place):
        pruner = entry.build(network, (density,), chosen, recipe=recipe, seed=seed)
        batches = as_training_data(data, pruner.network, place, input_shape)
        with missing_derivative_named(method), _single_samples_named():
            fit(pruner, pruner.work(batches), epochs=1, device=place)
    mask = pruner.tickets()[density].to(home)
    assert mask.kept == kept_count(density, mask.total)
    if tied := pruner.found[density].ties.at(mask.total - mask.kept):
        warnings.warn(message(method, density, tied, mask.kept), stacklevel=2)
    return mask


def as_density(value: Any) -> float:
    """A density as a float: of numpy's numbers, fractions, decimals and tensors of one number too.

    Raises:
        ConfigError: It is no number in (0, 1].
    """
    arrays = (torch.Tensor, np.generic, np.ndarray)
    number = value.item() if isinstance(value, arrays) and math.prod(value.shape) == 1 else value
    real = isinstance(number, (Real, Decimal)) and not isinstance(number, bool)
    if not real or not 0 < float(number) <= 1:
        raise ConfigError("density", value, "must lie in (0, 1]: it is the fraction of weights kept")
    return float(number)


@contextmanager
def _single_samples_named() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        words = (
            "the data has a batch of one sample, which cannot be normalised by itself: give its loader drop_last=True"
        )
        raise DataError(words) from error


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
