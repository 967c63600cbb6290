"""Data sets: raw pixels on the device or pictures from a folder, behind one interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prune_bench.data import digits, downloads, imagenet, synthetic, tiny_imagenet
from prune_bench.data.cache import fingerprint
from prune_bench.data.device import DeviceData
from prune_bench.data.folder import ImageFolderData
from prune_bench.data.protocol import Batch, DataSet, EvaluationData, Samples, Split, TrainingData
from prune_bench.data.registry import DataOptions, datasets
from prune_bench.options import read_options
from prune_bench.places import data_root

__all__ = [
    "Batch",
    "DataOptions",
    "DataSet",
    "DeviceData",
    "EvaluationData",
    "ImageFolderData",
    "Samples",
    "Split",
    "TrainingData",
    "data_root",
    "datasets",
    "fingerprint",
    "load_data",
]


def load_data(name: str, options: Any, seed: int) -> DataSet:
    """The data set called ``name``, on the CPU; ``.to(device)`` moves it.

    Args:
        name: As registered.
        options: An instance of its options dataclass, or a mapping of option names to values.
        seed: Names the validation split, orders and augmentation.

    Raises:
        ConfigError: There is no such data set, or an option is unknown or has no such value.
        DataError: It is damaged, or neither there nor to be had; says what to put where.
    """
    entry = datasets.find(name, "data.name")
    if isinstance(options, Mapping):
        options = read_options(entry.options, options, "data")
    return entry.build(options, data_root(options.root), seed)
