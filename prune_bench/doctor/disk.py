"""The disk of the run's folder: room, durability, speed."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from prune_bench.doctor.lines import Line, Subject
from prune_bench.files import LocalFiles

_LEAST_FREE = 2**30
_LEAST_INODES = 10_000
_LARGE, _SMALL, _TIMES = 2**24, 2**10, 10
_SLOW = 0.25  # seconds for a small artifact: a sweep writes hundreds


def look(subject: Subject) -> Iterator[Line]:
    """Room, then writing."""
    folder = subject.experiment.folder.absolute()
    yield room(nearest(folder))
    with made(folder):
        yield writing(folder)


def room(folder: Path) -> Line:
    """Whether there is room for a run.

    Args:
        folder: Exists.
    """
    free, status = shutil.disk_usage(folder).free, os.statvfs(folder)
    words = f"{free / 1e9:,.0f} GB free at {folder}"
    values = {"disk_free": free}
    if free < _LEAST_FREE:
        words = (
            f"{free / 1e6:,.0f} MB free at {folder}, too little for a run: make room, or name another with output="
        )
        return Line(name="disk", verdict="mend", words=words, values=values)
    if status.f_files and status.f_favail < _LEAST_INODES:
        words = f"{status.f_favail} files more fit at {folder} (inodes): remove some, or name another with output="
        return Line(name="disk", verdict="mend", words=words, values=values)
    return Line(name="disk", verdict="pass", words=words, values=values)


def writing(folder: Path) -> Line:
    """Whether files can be written and synced there, and how quickly."""
    files, name = LocalFiles(folder), f".doctor-{uuid.uuid4().hex}"
    try:
        large = _timed(files, name, _LARGE)
        small = sum(_timed(files, name, _SMALL) for _ in range(_TIMES)) / _TIMES
    except OSError as error:
        words = f"{folder} cannot be written: {error}. Name another folder with output="
        return Line(name="writing", verdict="mend", words=words)
    finally:
        with contextlib.suppress(OSError):
            files.remove(name)
    words = f"synced to the disk: {_LARGE / large / 1e6:,.0f} MB/s, {1e3 * small:.1f} ms a small file"
    values = {"disk_bytes_per_second": _LARGE / large, "disk_small_seconds": small}
    if small > _SLOW:
        words += ". Hundreds are written in a sweep: name a faster disk with store="
        return Line(name="writing", verdict="mend", words=words, values=values)
    return Line(name="writing", verdict="figure", words=words, values=values)


def nearest(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next((place for place in (folder, *folder.parents) if place.is_dir()), Path("/"))


@contextlib.contextmanager
def made(folder: Path) -> Iterator[None]:
    """Inside it the folder is there, if it can be made; what was made for it is removed again if it stays empty."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for place in missing:
                place.rmdir()


def _timed(files: LocalFiles, name: str, size: int) -> float:
    data, begun = os.urandom(size), time.perf_counter()
    files.write(name, data)
    seconds = time.perf_counter() - begun
    if files.read(name) != data:
        raise OSError("what is read is not what was written")
    return seconds
