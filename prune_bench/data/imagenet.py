"""ImageNet (1409.0575), from the user's own copy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prune_bench.data.folder import ImageFolderData
from prune_bench.data.registry import DataOptions, datasets
from prune_bench.options import NonNegative, Positive


@dataclass(frozen=True, kw_only=True)
class ImageNetOptions(DataOptions):
    """Options of ImageNet."""

    image_size: Positive = 224
    """Pixels a side; evaluation takes the centre of the picture scaled to 256/224 of that."""
    workers: NonNegative = 0
    """Processes that decode pictures; 0 decodes in the training process. No result depends on it."""


@datasets.add(
    "imagenet",
    options=ImageNetOptions,
    source="1409.0575",
    summary="1.3 million photographs, 1000 classes; from folders imagenet/train and imagenet/val in the root.",
)
def imagenet(options: ImageNetOptions, root: Path, seed: int) -> ImageFolderData:
    """Its published validation images are the test split.

    Raises:
        DataError: The folders are not there; says what to put where.
    """
    return ImageFolderData(
        "imagenet",
        root / "imagenet",
        image_size=options.image_size,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        augment=options.augment,
        validation=options.validation,
        seed=seed,
        workers=options.workers,
    )
