"""Handwritten digits that come with scikit-learn: 8x8 pixels, and no download."""

from __future__ import annotations

from pathlib import Path

import torch

from prune_bench.data.cache import Expected, load_or_build
from prune_bench.data.device import DeviceData
from prune_bench.data.protocol import Samples
from prune_bench.data.registry import DataOptions, datasets
from prune_bench.randomness import generator

EXPECTED = Expected(shape=(1, 8, 8), classes=10, counts=(1438, 359))
BRIGHTEST = 16
"""Pixels count up to this in scikit-learn's copy."""


@datasets.add(
    "digits",
    options=DataOptions,
    source="sklearn.datasets.load_digits (UCI, Alpaydin and Kaynak 1998)",
    summary="1,797 handwritten digits of 8x8 pixels; needs no download.",
)
def digits(options: DataOptions, root: Path, seed: int) -> DeviceData:
    """The digits; never augmented, for a mirrored digit is none."""
    raw = load_or_build(root, "digits", EXPECTED, build)
    return DeviceData(
        "digits",
        raw.train,
        raw.test,
        num_classes=10,
        mean=(0.3053,),
        std=(0.3759,),
        augmentation="none",
        validation=options.validation,
        seed=seed,
        fingerprint=raw.fingerprint,
    )


def build() -> tuple[Samples, Samples]:
    """Training and test split; of each class the same fifth is the test split, for everyone."""
    from sklearn.datasets import load_digits  # a second's import, needed once in the life of a cache

    found = load_digits()
    images = torch.from_numpy(found.images).mul(255 / BRIGHTEST).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(found.target).to(torch.int64)
    order = torch.randperm(len(labels), generator=generator(0, "digits", "test"))
    test = torch.cat([_fifth(order[labels[order] == digit]) for digit in range(10)]).sort().values
    train = torch.ones(len(labels), dtype=torch.bool).index_fill(0, test, False)
    return Samples(images[train], labels[train]), Samples(images[test], labels[test])


def _fifth(index: torch.Tensor) -> torch.Tensor:
    return index[: round(len(index) / 5)]
