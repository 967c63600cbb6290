"""Data sets on disk: ``<root>/<name>/{train,test}.safetensors``, built once and verified whenever they are read."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from prune_bench.data.protocol import Samples
from prune_bench.errors import DataError

SPLITS = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What is known of a data set before it is read; None where nothing is.

    Attributes:
        shape: Of one image: (C, H, W).
        classes: Labels are 0 .. classes - 1.
        counts: Samples of the training and the test split.
    """

    shape: tuple[int, int, int]
    classes: int | None = None
    counts: tuple[int, int] | None = None


@dataclass(frozen=True)
class Raw:
    """A whole data set.

    Attributes:
        train: The training split, validation included.
        test: The test split.
        fingerprint: Hash of both.
    """

    train: Samples
    test: Samples
    fingerprint: str


def fingerprint(*splits: Samples) -> str:
    """SHA-256 over the shapes, pixels and labels of the splits in turn; hexadecimal."""
    return _combined(_digest(samples) for samples in splits)


def load_or_build(root: Path, name: str, expected: Expected, build: Callable[[], tuple[Samples, Samples]]) -> Raw:
    """The data set as it lies in its folder; built first if it is not there.

    What has been read once is not read or hashed again in the same process while its files stay as they are.

    Args:
        root: Folder of the data sets.
        name: Folder of this one.
        expected: What the files must hold.
        build: Makes the training and the test split.

    Raises:
        DataError: A file is damaged or not what it should be, or cannot be written; names it.
    """
    files = [root / name / f"{split}.safetensors" for split in SPLITS]
    if not all(file.is_file() for file in files):
        for file, samples, count in zip(files, build(), expected.counts or (None, None)):
            _verify(file, samples, expected, count)
            if not file.is_file():
                _write(file, samples)
    return _read_both(*((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files), expected)


@lru_cache(maxsize=4)
def _read_both(train: tuple[str, int, int], test: tuple[str, int, int], expected: Expected) -> Raw:
    """Both files, given with the time and size that tell whether they changed since they were last read."""
    counts = expected.counts or (None, None)
    splits = [_read(Path(file[0]), expected, count) for file, count in zip((train, test), counts)]
    return Raw(splits[0][0], splits[1][0], _combined(digest for _, digest in splits))


def _read(file: Path, expected: Expected, count: int | None) -> tuple[Samples, str]:
    """The file's samples and their digest."""
    try:
        with safe_open(file, "pt") as tensors:
            samples = Samples(tensors.get_tensor("images"), tensors.get_tensor("labels"))
            checksum = (tensors.metadata() or {}).get("sha256")
    except (SafetensorError, OSError) as error:
        raise _unusable(file, f"cannot be read ({error})") from None
    _verify(file, samples, expected, count)
    digest = _digest(samples)
    # Files that others made have no checksum of ours.
    if checksum not in (None, digest):
        raise _unusable(file, "is damaged: its content does not match its checksum")
    return samples, digest


def _verify(file: Path, samples: Samples, expected: Expected, count: int | None) -> None:
    images, labels = samples
    if images.dtype != torch.uint8 or labels.dtype != torch.int64:
        raise _unusable(
            file, f"holds {images.dtype} images and {labels.dtype} labels, not torch.uint8 and torch.int64"
        )
    if labels.ndim != 1 or tuple(images.shape) != (len(labels), *expected.shape):
        shapes = f"images {list(images.shape)} and labels {list(labels.shape)}"
        raise _unusable(file, f"holds {shapes}, not {['N', *expected.shape]} and ['N']")
    if len(labels) == 0 or len(labels) != (count or len(labels)):
        raise _unusable(file, f"holds {len(labels)} samples, not {count or 'at least one'}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (expected.classes is not None and high >= expected.classes):
        top = "" if expected.classes is None else f" to {expected.classes - 1}"
        raise _unusable(file, f"holds labels from {low} to {high}, not from 0{top}")


def _unusable(file: Path, reason: str) -> DataError:
    return DataError(f"{file} {reason}. Remove it to have it built anew, or put a good copy in its place.")


def _write(file: Path, samples: Samples) -> None:
    """Writes aside, then puts the file in its place in one step."""
    tensors = {"images": samples.images.contiguous(), "labels": samples.labels.contiguous()}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".building-") as aside:
            draft = Path(aside) / file.name
            save_file(tensors, draft, metadata={"sha256": _digest(samples)})
            # safetensors gives its files to their owner only; the folder may be shared.
            draft.chmod(0o644)
            with draft.open("rb+") as written:
                os.fsync(written.fileno())
            draft.replace(file)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{file} cannot be written ({error}). Name another folder by the variable PRUNE_BENCH_DATA or the data "
            "set's option root."
        ) from None


def _digest(samples: Samples) -> str:
    digest = hashlib.sha256(str([tuple(tensor.shape) for tensor in samples]).encode())
    for tensor in samples:
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _combined(digests: Iterable[str]) -> str:
    return hashlib.sha256("/".join(digests).encode()).hexdigest()
