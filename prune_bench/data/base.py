"""What all data sets have in common: their attributes, and their face towards a plain Lightning Trainer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator

import torch
from lightning.pytorch import LightningDataModule
from typing_extensions import Self

from prune_bench.data.protocol import Batch, EvaluationData, Split, TrainingData


class DataModule(LightningDataModule):
    """A data set whose batches are made on the device, and which Lightning can use too.

    Args:
        name: What it is called.
        num_classes: Labels are 0 .. num_classes - 1.
        input_shape: Of one image: (C, H, W).
        samples: Training samples of one epoch.
        seed: Names the validation split, orders and augmentation.
        fingerprint: Hash of the content.

    Attributes:
        batch_size: Of Lightning's dataloaders; nothing else reads it.
    """

    name: str

    def __init__(
        self,
        name: str,
        *,
        num_classes: int,
        input_shape: tuple[int, ...],
        samples: int,
        seed: int,
        fingerprint: str,
    ) -> None:
        super().__init__()
        self.name, self.num_classes, self.input_shape, self.samples = name, num_classes, input_shape, samples
        self.seed, self.fingerprint = seed, fingerprint
        self.batch_size = 512

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Itself, its batches on ``device`` from now on."""

    @abstractmethod
    def epoch(self, epoch: int, batch_size: int, *, augment: bool) -> Iterator[Batch]:
        """The batches of one epoch, whole ones only, in an order of the epoch's own.

        Of several ranks each has its share of every batch (:mod:`prune_bench.parallel`).

        Args:
            epoch: Which; with the seed it names the order and the augmentation.
            batch_size: Samples a batch; all there are if they are fewer.
            augment: Whether images are altered as is usual for the data set.
        """

    @abstractmethod
    def balanced(self, per_class: int) -> Batch:
        """Un-augmented training samples, ``per_class`` of each class or all there are, classes taking turns.

        Because they take turns, a piece of the batch is balanced too.
        """

    @abstractmethod
    def evaluation(self, split: Split, batch_size: int) -> Iterator[Batch]:
        """The split's fixed batches: shuffled once, by no seed of an experiment, and nearly equal in size.

        Of several ranks each has its share of every batch.

        Without running statistics a network's outputs depend on the batch, so that neither the order on disk nor a
        small last batch may make a difference.

        Args:
            split: Which; an empty validation split gives no batches.
            batch_size: Samples of the largest batch; none has fewer than two.

        Raises:
            DataError: The split holds a single sample, which cannot be normalised by its batch.
        """

    def steps_per_epoch(self, batch_size: int) -> int:
        """Whole batches in an epoch; one smaller one if there are fewer samples than that."""
        return max(1, self.samples // batch_size)

    def train_dataloader(self) -> EpochLoader:
        """Augmented training batches, in a new order every epoch."""
        return EpochLoader(self, self.batch_size)

    def val_dataloader(self) -> Iterable[Batch]:
        """The validation split's fixed batches."""
        return EvaluationLoader(self, "validation", self.batch_size)

    def test_dataloader(self) -> Iterable[Batch]:
        """The test split's fixed batches."""
        return EvaluationLoader(self, "test", self.batch_size)


class EpochLoader:
    """The training batches of one epoch after the other.

    Args:
        data: Where batches come from.
        batch_size: Samples a batch.
    """

    def __init__(self, data: TrainingData, batch_size: int) -> None:
        self._data, self._batch_size, self._epoch = data, batch_size, 0

    @property
    def sampler(self) -> EpochLoader:
        """Itself: Lightning looks for ``set_epoch`` at a loader's sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._data.steps_per_epoch(self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self._data.epoch(self._epoch, self._batch_size, augment=True)


class EvaluationLoader:
    """The fixed batches of a split, as often as asked for.

    Args:
        data: Where batches come from.
        split: Which.
        batch_size: Samples of the largest batch.
    """

    def __init__(self, data: EvaluationData, split: Split, batch_size: int) -> None:
        self._data, self._split, self._batch_size = data, split, batch_size

    def __iter__(self) -> Iterator[Batch]:
        return self._data.evaluation(self._split, self._batch_size)
