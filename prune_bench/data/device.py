"""Small data sets, held whole on the device as raw pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from typing_extensions import Self

from prune_bench.data.augment import PAD, Augmentation, FlipCrop, draw_flip_crop, flip_crop, normalise
from prune_bench.data.base import DataModule
from prune_bench.data.labels import check_samples
from prune_bench.data.protocol import Batch, Samples, Split
from prune_bench.data.splits import balanced_choice, evaluation_batches, split_training
from prune_bench.errors import DataError
from prune_bench.parallel import share
from prune_bench.randomness import generator


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
        self._train, self._test = Samples(*train), Samples(*test)
        self._mean, self._std = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (mean, std))

    def to(self, device: torch.device | str) -> Self:
        """Moves the samples to ``device``, where batches are from now on; gives itself."""
        self._train = Samples(*(tensor.to(device) for tensor in self._train))
        self._test = Samples(*(tensor.to(device) for tensor in self._test))
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self

    def epoch(self, epoch: int, batch_size: int, *, augment: bool) -> Iterator[Batch]:
        """The batches of one epoch, whole ones only, in an order of the epoch's own."""
        used = min(self.samples, self.steps_per_epoch(batch_size) * batch_size)
        order = self._training[torch.randperm(self.samples, generator=generator(self.seed, "order", epoch))]
        device = self._train.images.device
        order = order[:used].to(device)
        if not augment or self.augmentation == "none":
            yield from (self._batch(self._train, share(index)) for index in order.split(batch_size))
            return
        how = draw_flip_crop(used, generator(self.seed, "augment", epoch))
        pieces = (order, how.flips.to(device), how.shifts.to(device))
        for index, flips, shifts in zip(*(map(share, piece.split(batch_size)) for piece in pieces)):
            images = flip_crop(self._train.images, index, FlipCrop(flips, shifts))
            yield normalise(images, self._mean, self._std), self._train.labels[index]

    def balanced(self, per_class: int) -> Batch:
        """Un-augmented training samples, ``per_class`` of each class or all there are, classes taking turns."""
        index = balanced_choice(self._train.labels.cpu(), self._training, per_class, self.seed)
        return self._batch(self._train, index.to(self._train.labels.device))

    def evaluation(self, split: Split, batch_size: int) -> Iterator[Batch]:
        """The split's fixed batches: shuffled once, by no seed of an experiment, and nearly equal in size."""
        samples = self._train if split == "validation" else self._test
        chosen = self._validation if split == "validation" else torch.arange(len(self._test.labels))
        for index in evaluation_batches(self.name, split, chosen, batch_size):
            yield self._batch(samples, share(index).to(samples.labels.device))

    def _batch(self, samples: Samples, index: Tensor) -> Batch:
        return normalise(samples.images[index], self._mean, self._std), samples.labels[index]
