"""What others need of a data set: pruners and training its batches, a sweep its identity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from typing_extensions import Self

Batch = tuple[Tensor, Tensor]
"""Images, float32 [B, C, H, W], normalised, and labels, int64 [B]; both on the data's device."""

Split = Literal["validation", "test"]
"""What a network is evaluated on; only the second is never looked at for any choice."""


class Samples(NamedTuple):
    """Raw images, uint8 [N, C, H, W], and labels, int64 [N]."""

    images: Tensor
    labels: Tensor


class TrainingData(Protocol):
    """What pruners and training need.

    Attributes:
        num_classes: Labels are 0 .. num_classes - 1.
        input_shape: Of one image: (C, H, W).
        samples: Training samples of one epoch.
    """

    num_classes: int
    input_shape: tuple[int, ...]
    samples: int

    def steps_per_epoch(self, batch_size: int) -> int:
        """How many batches :meth:`epoch` gives."""

    def epoch(self, epoch: int, batch_size: int, *, augment: bool) -> Iterator[Batch]:
        """The batches of one epoch, the same for the same number; whole ones only."""

    def balanced(self, per_class: int) -> Batch:
        """An un-augmented batch of ``per_class`` training samples of each class, always the same."""


class EvaluationData(Protocol):
    """What evaluation needs."""

    def evaluation(self, split: Split, batch_size: int) -> Iterator[Batch]:
        """The fixed batches of a split; none if it is empty."""


class DataSet(TrainingData, EvaluationData, Protocol):
    """What :func:`prune_bench.data.load_data` gives.

    Attributes:
        fingerprint: Hash of the content, wherever it lies; part of the key of all that is computed from it.
    """

    fingerprint: str

    def to(self, device: torch.device | str) -> Self:
        """Itself, its batches on ``device`` from now on."""
