"""The data sets by name; other packages add theirs through the entry-point group ``prune_bench.datasets``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from prune_bench.data.protocol import DataSet
from prune_bench.options import BelowOne
from prune_bench.registry import Registry


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Options that all data sets have."""

    root: str = ""
    """Folder of the data sets; if empty, the variable `PRUNE_BENCH_DATA`, else the user's cache folder."""
    validation: BelowOne = 0.1
    """Fraction of the training samples set aside, drawn by the seed; never trained on."""
    augment: bool = True
    """Whether training images are augmented as is usual for the data set."""


class Loader(Protocol):
    """What is registered: a function that loads a data set."""

    def __call__(self, options: Any, root: Path, seed: int) -> DataSet:
        """The data set, on the CPU.

        Args:
            options: An instance of the registered dataclass, which inherits :class:`DataOptions`.
            root: Folder of the data sets; ``options.root`` with its defaults put in.
            seed: Names the validation split, orders and augmentation.
        """


datasets: Registry[Loader] = Registry("data set", "prune_bench.datasets")
"""Data sets, one file a source; importing :mod:`prune_bench.data` registers them all."""
