"""Where things lie on this machine."""

from __future__ import annotations

import contextlib
import hashlib
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


def tree_mark(folder: Path) -> str:
    """A hash of the names, sizes and times of all files under a folder, at any depth; empty without it."""
    sha = hashlib.sha256()
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            sha.update(os.fsencode(f"{os.path.relpath(where, folder)}/{name}\n"))
            with contextlib.suppress(OSError):  # it is gone, or a link to nothing
                stat = os.stat(os.path.join(where, name))
                sha.update(f"{stat.st_size} {stat.st_mtime_ns}\n".encode())
    return sha.hexdigest()


def cache_root() -> Path:
    """The user's cache folder: what can be had again."""
    return Path(platformdirs.user_cache_dir("prune_bench", appauthor=False))
