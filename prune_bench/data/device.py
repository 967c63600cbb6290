"""Small data sets, held whole on the device as raw pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import Self

from prune_bench.data.augment import PAD, Augmentation, Normalisation, draw_flip_crop, flip_crop, source_pixels
from prune_bench.data.base import DataModule
from prune_bench.data.labels import check_samples
from prune_bench.data.protocol import Batch, Samples, Split
from prune_bench.data.splits import balanced_choice, evaluation_batches, split_training
from prune_bench.data.transfer import send, shared_copy
from prune_bench.errors import DataError
from prune_bench.parallel import share
from prune_bench.randomness import generator


class _Order(NamedTuple):
    """One epoch's samples in their order, on the device.

    Attributes:
        samples: int64 [N], positions among the training samples.
        alterations: int64 [N], rows of :func:`source_pixels`; None to leave the images as they are.
    """

    samples: Tensor
    alterations: Tensor | None


class DeviceData(DataModule):
    """A data set on the device: batches are gathered, augmented and normalised there.

    Orders and augmentation are drawn on the CPU, so that they are the same on every device.

    Args:
        name: What it is called.
        train: Training samples; part of them are set aside for validation. Pixels are 0 .. 255, or floats 0 .. 1.
        test: Test samples; only ``evaluation("test")`` looks at them.
        num_classes: Labels are 0 .. num_classes - 1.
        mean: Of each channel, for pixels in 0 .. 1.
        std: Of each channel.
        augmentation: What ``epoch(augment=True)`` does.
        validation: Fraction of the training samples set aside.
        seed: Names the split, orders and augmentation.
        fingerprint: Hash of the content of both splits.

    Raises:
        DataError: No training samples are left beside validation, images are too small for the augmentation, or
            pixels or labels are not what they must be.
    """

    draws_apart = True
    """An epoch may be begun early: nothing is drawn from global generators."""

    def __init__(
        self,
        name: str,
        train: Samples,
        test: Samples,
        *,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        augmentation: Augmentation,
        validation: float,
        seed: int,
        fingerprint: str,
    ) -> None:
        train, test = check_samples(name, (train, test), num_classes)
        self._training, self._validation = split_training(name, len(train.labels), validation, seed)
        super().__init__(
            name,
            num_classes=num_classes,
            input_shape=tuple(train.images.shape[1:]),
            samples=len(self._training),
            seed=seed,
            fingerprint=fingerprint,
        )
        if augmentation == "flip_crop" and min(self.input_shape[1:]) <= PAD:
            raise DataError(f"{name}: images of {self.input_shape[1:]} pixels cannot be padded by reflecting {PAD}")
        self.augmentation: Augmentation = augmentation
        self._train, self._test = (Samples(split.images.contiguous(), split.labels) for split in (train, test))
        self._normalise = Normalisation(mean, std)
        # The table of what is never used has no rows.
        self._sources = source_pixels(*self.input_shape[1:]) if augmentation == "flip_crop" else torch.empty(0)

    def to(self, device: torch.device | str) -> Self:
        """Moves the samples to ``device``, where batches are from now on; gives itself.

        On another device the samples are those of every data set that was made of the same tensors.
        """
        self._train, self._test = (
            Samples(*(shared_copy(tensor, device) for tensor in split)) for split in (self._train, self._test)
        )
        self._normalise = self._normalise.to(device)
        self._sources = shared_copy(self._sources, device)
        return self

    def epoch(self, epoch: int, batch_size: int, *, augment: bool) -> Iterator[Batch]:
        """The batches of one epoch, whole ones only, in an order of the epoch's own."""
        used = min(self.samples, self.steps_per_epoch(batch_size) * batch_size)
        order = self._draw(epoch, used, augment)
        indices, labels = (piece.split(batch_size) for piece in (order.samples, self._train.labels[order.samples]))
        alterations = [None] * len(indices) if order.alterations is None else order.alterations.split(batch_size)
        for index, which, y in zip(indices, alterations, labels):
            yield self._normalise(self._images(share(index), which)), share(y)

    def balanced(self, per_class: int) -> Batch:
        """Un-augmented training samples, ``per_class`` of each class or all there are, classes taking turns."""
        index = balanced_choice(self._train.labels.cpu(), self._training, per_class, self.seed)
        return self._batch(self._train, send(index, self._normalise.device))

    def evaluation(self, split: Split, batch_size: int) -> Iterator[Batch]:
        """The split's fixed batches: shuffled once, by no seed of an experiment, and nearly equal in size."""
        samples = self._train if split == "validation" else self._test
        chosen = self._validation if split == "validation" else torch.arange(len(self._test.labels))
        for index in evaluation_batches(self.name, split, chosen, batch_size, self._normalise.device):
            yield self._batch(samples, share(index))

    def _draw(self, epoch: int, used: int, augment: bool) -> _Order:
        order = self._training[torch.randperm(self.samples, generator=generator(self.seed, "order", epoch))]
        altered = augment and self.augmentation != "none"
        how = draw_flip_crop(used, generator(self.seed, "augment", epoch)).numbers() if altered else None
        device = self._normalise.device
        return _Order(send(order[:used], device), None if how is None else send(how, device))

    def _images(self, index: Tensor, alterations: Tensor | None) -> Tensor:
        if alterations is None:
            return self._train.images[index]
        return flip_crop(self._train.images, index, self._sources[share(alterations)])

    def _batch(self, samples: Samples, index: Tensor) -> Batch:
        return self._normalise(samples.images[index]), samples.labels[index]
