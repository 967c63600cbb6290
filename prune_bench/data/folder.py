"""Large data sets, streamed from folders of pictures."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from typing_extensions import Self

from prune_bench.data.augment import Normalisation
from prune_bench.data.base import DataModule
from prune_bench.data.pictures import read_picture
from prune_bench.data.protocol import Batch, Split
from prune_bench.data.splits import balanced_choice, evaluation_batches, split_training
from prune_bench.data.transfer import one_ahead, send
from prune_bench.errors import DataError
from prune_bench.parallel import share
from prune_bench.places import tree_mark
from prune_bench.randomness import derive_seed, generator

Request = tuple[int, int | None]
"""A picture's index, and the seed of its augmentation or None to leave it unaltered."""
PLAIN_MARGIN = 256 / 224
"""An unaltered picture's shorter side over the square cut from its centre (1512.03385, section 3.4)."""


class Listing(NamedTuple):
    """The pictures of a data set.

    Attributes:
        classes: Names of the classes, in the order of their labels.
        train: Path and label of each training picture.
        test: Of each test picture.
        fingerprint: Hash of all names and sizes; contents are too many to read.
    """

    classes: tuple[str, ...]
    train: list[tuple[str, int]]
    test: list[tuple[str, int]]
    fingerprint: str


class Pictures(Dataset[tuple[Tensor, int]]):
    """Decodes pictures; an alteration depends on its seed alone, not on the process that draws it.

    Args:
        files: Path and label of each.
        size: Pixels a side of what comes out.
    """

    def __init__(self, files: list[tuple[str, int]], size: int) -> None:
        self._files = files
        self._altered = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), v2.PILToTensor()])
        self._plain = v2.Compose([v2.Resize(round(size * PLAIN_MARGIN)), v2.CenterCrop(size), v2.PILToTensor()])

    def __getitem__(self, request: Request) -> tuple[Tensor, int]:
        """Picture, uint8 [3, size, size], and label.

        Raises:
            DataError: It cannot be read.
        """
        index, seed = request
        path, label = self._files[index]
        picture = read_picture(path)
        if seed is None:
            return self._plain(picture), label
        with torch.random.fork_rng(devices=[]):  # torchvision's transforms know no generators
            torch.default_generator.manual_seed(seed)
            return self._altered(picture), label


class ImageFolderData(DataModule):
    """A data set of ``train/<class>/`` and ``val/<class>/`` folders, decoded as it is used.

    The pictures of ``val`` are the test split.

    Args:
        name: What it is called.
        folder: Where ``train`` and ``val`` lie.
        image_size: Pixels a side: a random part of the picture scaled to that, or else its centre.
        mean: Of each channel, for pixels in 0 .. 1.
        std: Of each channel.
        augment: Whether ``epoch(augment=True)`` augments at all.
        validation: Fraction of the training samples set aside.
        seed: Names the split, orders and augmentation.
        workers: Processes that decode; 0 decodes in this one. No result depends on it.

    Raises:
        DataError: The folder is not laid out like that, or no training samples are left beside validation.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        augment: bool,
        validation: float,
        seed: int,
        workers: int,
    ) -> None:
        listing = list_pictures(name, folder)
        self._training, self._validation = split_training(name, len(listing.train), validation, seed)
        super().__init__(
            name,
            num_classes=len(listing.classes),
            input_shape=(3, image_size, image_size),
            samples=len(self._training),
            seed=seed,
            fingerprint=listing.fingerprint,
        )
        self._listing, self._augment, self._workers = listing, augment, workers
        self._pictures = Pictures([*listing.train, *listing.test], image_size)
        self._normalise = Normalisation(mean, std)
        self._idle: list[DataLoader[tuple[Tensor, int]]] = []

    def to(self, device: torch.device | str) -> Self:
        """Sends batches to ``device`` from now on; gives itself."""
        self._normalise = self._normalise.to(device)
        self._idle = []
        return self

    def epoch(self, epoch: int, batch_size: int, *, augment: bool) -> Iterator[Batch]:
        """The batches of one epoch, whole ones only, in an order of the epoch's own."""
        order = self._training[torch.randperm(self.samples, generator=generator(self.seed, "order", epoch))]
        used = min(self.samples, self.steps_per_epoch(batch_size) * batch_size)
        purpose = (self.seed, "augment", epoch) if augment and self._augment else None
        return self._stream(map(share, order[:used].split(batch_size)), purpose)

    def balanced(self, per_class: int) -> Batch:
        """Un-augmented training samples, ``per_class`` of each class or all there are, classes taking turns."""
        labels = torch.tensor([label for _, label in self._listing.train])
        return next(self._stream([balanced_choice(labels, self._training, per_class, self.seed)]))

    def evaluation(self, split: Split, batch_size: int) -> Iterator[Batch]:
        """The split's fixed batches: shuffled once, by no seed of an experiment, and nearly equal in size."""
        tests = torch.arange(len(self._listing.test)) + len(self._listing.train)
        chosen = self._validation if split == "validation" else tests
        return self._stream(map(share, evaluation_batches(self.name, split, chosen, batch_size)))

    def _stream(self, batches: Iterable[Tensor], purpose: tuple[int, str, int] | None = None) -> Iterator[Batch]:
        device = self._normalise.device
        decoded = self._decoded(_Requests(batches, purpose))
        sent = ((send(images, device), send(labels, device)) for images, labels in decoded)
        for images, labels in one_ahead(sent):
            yield self._normalise(images), labels

    def _decoded(self, requests: _Requests) -> Iterator[Batch]:
        """Batches by a loader that nobody uses now: its processes are started once and not once an epoch."""
        loader = self._idle.pop() if self._idle else self._loader()
        cast("_Exchangeable", loader.batch_sampler).requests = requests
        with contextlib.suppress(GeneratorExit):  # one that was left early can be used again, one that failed cannot
            yield from loader
        self._idle.append(loader)

    def _loader(self) -> DataLoader[tuple[Tensor, int]]:
        return DataLoader(
            self._pictures,
            batch_sampler=_Exchangeable(),  # type: ignore[arg-type]
            num_workers=self._workers,
            persistent_workers=self._workers > 0,
            pin_memory=self._normalise.device.type == "cuda",
            # Forked workers inherit locks of threads that they have not; spawned ones start clean.
            multiprocessing_context="spawn" if self._workers else None,
            # Without one of its own a loader draws from the global generator.
            generator=generator(self.seed, "workers"),
        )


class _Requests:
    """Batches of indices as batches of requests, made one at a time."""

    def __init__(self, batches: Iterable[Tensor], purpose: tuple[int, str, int] | None) -> None:
        self._batches, self._purpose = batches, purpose

    def __iter__(self) -> Iterator[list[Request]]:
        for batch in self._batches:
            yield [(i, self._purpose and derive_seed(*self._purpose, i)) for i in batch.tolist()]


class _Exchangeable:
    """Batch sampler of a loader that is used more than once.

    Attributes:
        requests: Batches that the loader's next iteration gives.
    """

    requests: Iterable[list[Request]] = ()

    def __iter__(self) -> Iterator[list[Request]]:
        return iter(self.requests)


def list_pictures(name: str, folder: Path) -> Listing:
    """The pictures in ``folder``, listed once a process while all of it stays as it is.

    Raises:
        DataError: It is not laid out like that, or the splits' classes differ.
    """
    parts = [folder / "train", folder / "val"]
    if not all(part.is_dir() for part in parts):
        raise DataError(
            f"{name} is not in {folder}: put its pictures there as {parts[0]}/<class>/* and {parts[1]}/<class>/*, or "
            "point the variable PRUNE_BENCH_DATA or the option root to the folder above."
        )
    return _list(name, folder, tuple(map(tree_mark, parts)))


@lru_cache(maxsize=2)
def _list(name: str, folder: Path, _changed: tuple[str, ...]) -> Listing:
    try:
        train, test = ImageFolder(str(folder / "train")), ImageFolder(str(folder / "val"))
    except FileNotFoundError as error:  # a class without pictures, or no class at all
        raise DataError(f"{name} in {folder} cannot be used: {error}") from None
    if train.classes != test.classes:
        odd = min(set(train.classes) ^ set(test.classes))
        raise DataError(f"{name}: the class {odd!r} is in only one of {folder / 'train'} and {folder / 'val'}")
    digest = hashlib.sha256()
    for path, label in (*train.samples, *test.samples):
        file = Path(path)
        digest.update(f"{file.relative_to(folder).as_posix()}\0{label}\0{file.stat().st_size}\n".encode())
    return Listing(tuple(train.classes), train.samples, test.samples, digest.hexdigest())
