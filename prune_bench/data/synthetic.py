"""Made-up images for benchmarks and tests: any size, no files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from prune_bench.data.augment import PAD
from prune_bench.data.cache import Raw, fingerprint
from prune_bench.data.device import DeviceData
from prune_bench.data.protocol import Samples
from prune_bench.data.registry import DataOptions, datasets
from prune_bench.options import Positive
from prune_bench.randomness import generator

NOISE = 48.0
"""Standard deviation around a class's mean image, in grey levels."""


@dataclass(frozen=True, kw_only=True)
class SyntheticOptions(DataOptions):
    """Options of the made-up images."""

    samples: Positive = 1024
    """Training samples, validation included."""
    test_samples: Positive = 256
    """Test samples."""
    classes: Positive = 10
    """Classes, all nearly equally frequent."""
    channels: Positive = 3
    """Channels of an image."""
    image_size: Positive = 32
    """Pixels a side."""


@datasets.add(
    "synthetic",
    options=SyntheticOptions,
    source="benchmark",
    summary="Made-up images of any size: a mean image for each class, and noise. The same for everyone.",
)
def synthetic(options: SyntheticOptions, root: Path, seed: int) -> DeviceData:
    """Augmented as CIFAR is, so that it costs the same."""
    shape = (options.channels, options.image_size, options.image_size)
    raw = make(options.samples, options.test_samples, options.classes, shape)
    return DeviceData(
        "synthetic",
        raw.train,
        raw.test,
        num_classes=options.classes,
        mean=(0.5,) * options.channels,
        std=(0.25,) * options.channels,
        augmentation="flip_crop" if options.augment and options.image_size > PAD else "none",
        validation=options.validation,
        seed=seed,
        fingerprint=raw.fingerprint,
    )


@lru_cache(maxsize=4)
def make(samples: int, test_samples: int, classes: int, shape: tuple[int, int, int]) -> Raw:
    """Both splits, around the same means.

    Args:
        samples: Of the training split.
        test_samples: Of the test split.
        classes: How many mean images there are.
        shape: Of one image: (C, H, W).
    """
    means = 255 * torch.rand((classes, *shape), generator=generator(0, "synthetic", "means"))
    train, test = (_split(count, means, split) for split, count in (("train", samples), ("test", test_samples)))
    return Raw(train, test, fingerprint(train, test))


def _split(count: int, means: torch.Tensor, name: str) -> Samples:
    labels = torch.arange(count) % len(means)
    noise = torch.randn((count, *means.shape[1:]), generator=generator(0, "synthetic", name))
    return Samples((means[labels] + NOISE * noise).round_().clamp_(0, 255).to(torch.uint8), labels)
