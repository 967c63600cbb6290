"""Which samples go where: the arithmetic that every kind of data set shares."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prune_bench.data.protocol import Split
from prune_bench.data.transfer import send
from prune_bench.errors import DataError
from prune_bench.randomness import generator

CPU = torch.device("cpu")
SMALLEST_BATCH = 2
"""Samples of the smallest evaluation batch: batch statistics of a single 1x1 map do not exist."""


def split_training(name: str, samples: int, validation: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the samples to train on and of those set aside, int64.

    Raises:
        DataError: Nothing is left to train on.
    """
    aside = round(validation * samples)
    if aside >= samples:
        raise DataError(f"{name}: validation={validation} of {samples} training samples leaves none to train on")
    order = torch.randperm(samples, generator=generator(seed, "validation"))
    return order[aside:], order[:aside]


def balanced_choice(labels: Tensor, chosen: Tensor, per_class: int, seed: int) -> Tensor:
    """``per_class`` of the chosen samples of each class, or all there are, classes taking turns.

    Args:
        labels: int64 [N], of all samples.
        chosen: int64, indices of those to choose from.
        per_class: How many of each class.
        seed: Names the draw.
    """
    order = chosen[torch.randperm(len(chosen), generator=generator(seed, "balanced"))]
    classes = labels[order]
    picks = [order[classes == label][:per_class] for label in classes.unique()]
    turns = pad_sequence(picks, padding_value=-1).flatten()
    return turns[turns >= 0]


def evaluation_batches(
    name: str, split: Split, chosen: Tensor, batch_size: int, device: torch.device = CPU
) -> tuple[Tensor, ...]:
    """The chosen indices in an order that no seed changes, cut into the fewest batches, nearly equal in size.

    Args:
        name: Name of the data set, for the error.
        split: Split that they are of.
        chosen: int64, on the CPU.
        batch_size: Samples of the largest batch.
        device: Device of the result; one copy takes all batches there.

    Raises:
        DataError: There is a single one.
    """
    if len(chosen) == 0:
        return ()
    if len(chosen) < SMALLEST_BATCH:
        raise DataError(f"{name}: a {split} split of {len(chosen)} sample is too small: batch statistics need two")
    order = torch.randperm(len(chosen), generator=generator(0, "evaluation", split))
    pieces = min(-(-len(chosen) // batch_size), len(chosen) // SMALLEST_BATCH)
    return send(chosen[order], device).tensor_split(pieces)
