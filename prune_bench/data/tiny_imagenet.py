"""Tiny ImageNet, from the folder that its archive unpacks to."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.transforms.functional import pil_to_tensor

from prune_bench.data.cache import Expected, load_or_build
from prune_bench.data.device import DeviceData
from prune_bench.data.pictures import read_picture
from prune_bench.data.protocol import Samples
from prune_bench.data.registry import DataOptions, datasets
from prune_bench.errors import DataError

FOLDER = "tiny-imagenet-200"
EXPECTED = Expected(shape=(3, 64, 64), classes=200)


@datasets.add(
    "tiny_imagenet",
    options=DataOptions,
    source="Le and Yang 2015 (cs231n.stanford.edu/tiny-imagenet-200.zip)",
    summary=f"110,000 photographs, 64x64, 200 classes; from a folder {FOLDER} that you put into the root.",
)
def tiny_imagenet(options: DataOptions, root: Path, seed: int) -> DeviceData:
    """Its validation images are the test split: the real test labels were never published.

    Raises:
        DataError: Neither the cache nor the folder is there; says what to put where.
    """
    raw = load_or_build(root, "tiny_imagenet", EXPECTED, lambda: build(root / FOLDER))
    return DeviceData(
        "tiny_imagenet",
        raw.train,
        raw.test,
        num_classes=1 + int(max(raw.train.labels.max(), raw.test.labels.max())),
        mean=(0.4802, 0.4481, 0.3975),
        std=(0.2770, 0.2691, 0.2821),
        augmentation="flip_crop" if options.augment else "none",
        validation=options.validation,
        seed=seed,
        fingerprint=raw.fingerprint,
    )


def build(folder: Path) -> tuple[Samples, Samples]:
    """Reads ``train/<wnid>/images/*.JPEG`` and the images that ``val/val_annotations.txt`` names.

    Raises:
        DataError: The folder is not laid out like that, or an image cannot be read.
    """
    annotations = folder / "val" / "val_annotations.txt"
    wnids = sorted(path.parent.name for path in folder.glob("train/*/images"))
    if not wnids or not annotations.is_file():
        raise DataError(
            f"tiny_imagenet is not in {folder}: unpack tiny-imagenet-200.zip so that {folder}/train/<wnid>/images/"
            f"*.JPEG and {annotations} are there, or put its cache files, train.safetensors and test.safetensors, "
            f"into {folder.parent / 'tiny_imagenet'}."
        )
    train = [(file, wnid) for wnid in wnids for file in sorted((folder / "train" / wnid / "images").glob("*.JPEG"))]
    rows = [line.split("\t") for line in annotations.read_text().splitlines() if line.strip()]
    test = [(folder / "val" / "images" / row[0], row[1]) for row in rows if len(row) > 1]
    if strangers := {wnid for _, wnid in test} - set(wnids):
        raise DataError(f"{annotations} names {min(strangers)!r}, which is no class in {folder / 'train'}")
    return _decoded(train, wnids), _decoded(test, wnids)


def _decoded(files: list[tuple[Path, str]], wnids: list[str]) -> Samples:
    images = torch.empty((len(files), *EXPECTED.shape), dtype=torch.uint8)
    for row, (file, _) in zip(images, files):
        row.copy_(_pixels(file))
    label = {wnid: number for number, wnid in enumerate(wnids)}
    return Samples(images, torch.tensor([label[wnid] for _, wnid in files], dtype=torch.int64))


def _pixels(file: Path) -> torch.Tensor:
    pixels: torch.Tensor = pil_to_tensor(read_picture(file))
    if pixels.shape != EXPECTED.shape:
        raise DataError(f"{file} is of {list(pixels.shape)} pixels, not {list(EXPECTED.shape)}")
    return pixels
