"""Where things lie on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def data_root(root: str) -> Path:
    """The folder of the data sets: ``root``, else the variable PRUNE_BENCH_DATA, else the user's cache folder."""
    chosen = root or os.environ.get("PRUNE_BENCH_DATA", "")
    if chosen:
        return Path(chosen).expanduser()
    return cache_root() / "data"


def is_url(place: str) -> bool:
    """Whether a place is a URL that fsspec opens, and no path."""
    return "://" in place


def expanded(place: str) -> str:
    """The place with a leading ``~`` written out; a URL is left as it is.

    Raises:
        RuntimeError: There is no such user.
    """
    return place if is_url(place) else str(Path(place).expanduser())


def cache_root() -> Path:
    """The user's cache folder: what can be had again."""
    return Path(platformdirs.user_cache_dir("prune_bench", appauthor=False))
