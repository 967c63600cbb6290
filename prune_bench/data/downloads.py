"""The data sets that torchvision downloads: Fashion-MNIST, CIFAR-10, CIFAR-100."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision

from prune_bench.data.augment import Augmentation
from prune_bench.data.cache import Expected, load_or_build
from prune_bench.data.device import DeviceData
from prune_bench.data.protocol import Samples
from prune_bench.data.registry import DataOptions, datasets
from prune_bench.errors import DataError

PATIENCE = 60.0
"""Seconds that a server may keep silent during a download."""


@dataclass(frozen=True, kw_only=True)
class Download:
    """A data set of torchvision's.

    Attributes:
        name: What it is called here.
        cls: What torchvision's class is called.
        expected: Its shapes and counts.
        mean: Of each channel, for pixels in 0 .. 1.
        std: Of each channel.
        augmentation: What is usual for it.
    """

    name: str
    cls: str
    expected: Expected
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation


def load(download: Download, options: DataOptions, root: Path, seed: int) -> DeviceData:
    """The data set, from its cache or else from the network.

    Raises:
        DataError: It is neither here nor to be had; says which files to put where.
    """
    raw = load_or_build(root, download.name, download.expected, lambda: fetch(download, root))
    assert download.expected.classes is not None
    return DeviceData(
        download.name,
        raw.train,
        raw.test,
        num_classes=download.expected.classes,
        mean=download.mean,
        std=download.std,
        augmentation=download.augmentation if options.augment else "none",
        validation=options.validation,
        seed=seed,
        fingerprint=raw.fingerprint,
    )


def fetch(download: Download, root: Path) -> tuple[Samples, Samples]:
    """Downloads both splits into a folder that is gone afterwards.

    Raises:
        DataError: The download failed.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=f".{download.name}-") as aside, _impatience():
            cls = getattr(torchvision.datasets, download.cls)
            train, test = (_samples(cls(aside, train=train, download=True)) for train in (True, False))
    except Exception as error:  # torchvision's, urllib's and http's errors share no base
        folder = root / download.name
        raise DataError(
            f"{download.name} is not in {folder} and cannot be downloaded ({type(error).__name__}: {error}). Without "
            f"a network, put {folder / 'train.safetensors'} and {folder / 'test.safetensors'} there, each with "
            f"images, uint8 {['N', *download.expected.shape]}, and labels, int64 ['N']; or point the variable "
            "PRUNE_BENCH_DATA or the option root to a folder that has them."
        ) from error
    return train, test


def _samples(found: Any) -> Samples:
    """torchvision's arrays [N, H, W] or [N, H, W, 3] as [N, C, H, W]."""
    images = torch.as_tensor(found.data)
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return Samples(images.contiguous(), torch.as_tensor(found.targets, dtype=torch.int64))


@contextmanager
def _impatience() -> Iterator[None]:
    """Lets a connection that went silent fail, which torchvision would wait for without end."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


DOWNLOADS = (
    Download(
        name="fashion_mnist",
        cls="FashionMNIST",
        expected=Expected(shape=(1, 28, 28), classes=10, counts=(60_000, 10_000)),
        mean=(0.2860,),
        std=(0.3530,),
        augmentation="none",
    ),
    Download(
        name="cifar10",
        cls="CIFAR10",
        expected=Expected(shape=(3, 32, 32), classes=10, counts=(50_000, 10_000)),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
        augmentation="flip_crop",
    ),
    Download(
        name="cifar100",
        cls="CIFAR100",
        expected=Expected(shape=(3, 32, 32), classes=100, counts=(50_000, 10_000)),
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        augmentation="flip_crop",
    ),
)
_SOURCES = {
    "fashion_mnist": ("1708.07747", "70,000 pictures of clothes, 28x28, 10 classes."),
    "cifar10": ("Krizhevsky 2009", "60,000 colour pictures, 32x32, 10 classes."),
    "cifar100": ("Krizhevsky 2009", "60,000 colour pictures, 32x32, 100 classes."),
}


def _register(download: Download) -> None:
    source, summary = _SOURCES[download.name]

    @datasets.add(download.name, options=DataOptions, source=source, summary=summary)
    def build(options: DataOptions, root: Path, seed: int) -> DeviceData:
        return load(download, options, root, seed)


for _download in DOWNLOADS:
    _register(_download)
