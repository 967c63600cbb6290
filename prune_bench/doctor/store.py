"""The experiment's store: artifacts that appear whole, and claims that only one sweep can make."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prune_bench.doctor.disk import made
from prune_bench.doctor.lines import Line, Subject
from prune_bench.files import Files, LocalFiles, open_files

_CONTENDERS = 8
_YOUNG = 10.0  # seconds that something just touched may seem old


def look(subject: Subject) -> Iterator[Line]:
    """Artifacts, then claims."""
    location = subject.experiment.store_location
    try:
        files = open_files(location)
    except ValueError as error:
        yield Line(name="store", verdict="mend", words=f"store={location} cannot be opened: {error}")
        return
    folder = files.folder.absolute() if isinstance(files, LocalFiles) else None
    with made(folder) if isinstance(folder, Path) else contextlib.nullcontext():
        name = f"doctor/{uuid.uuid4().hex}"
        with contextlib.nullcontext() if folder is None else made(folder / "doctor"):
            try:
                yield from _artifacts_and_claims(files, name)
            finally:
                with contextlib.suppress(Exception):
                    files.remove(name)
                    files.remove(f"{name}.claim")


def _artifacts_and_claims(files: Files, name: str) -> Iterator[Line]:
    try:
        yield artifacts(files, name)
        yield claims(files, f"{name}.claim")
    except Exception as error:  # fsspec's file systems raise what they like
        words = f"{files.location} cannot be written ({type(error).__name__}: {error}). Name another with store="
        yield Line(name="store", verdict="mend", words=words)


def artifacts(files: Files, name: str) -> Line:
    """Whether bytes come back as they were put there, anew too, and are found by name."""
    for data in (b"first" * 1000, b"second" * 3000):
        files.write(name, data)
        if files.read(name) != data:
            words = f"{files.location} gives back other bytes than were written. Name another with store="
            return Line(name="store", verdict="mend", words=words)
    if name not in files.names("doctor"):
        words = f"{files.location} does not list what was written. Name another with store="
        return Line(name="store", verdict="mend", words=words)
    return Line(name="store", verdict="pass", words=f"{files.location}: written, read back, replaced, listed")


def claims(files: Files, name: str) -> Line:
    """Whether of several that make one file at once only one can, and the others know; and whether files age."""
    with ThreadPoolExecutor(_CONTENDERS) as pool:
        made = list(pool.map(lambda number: files.create(name, str(number).encode()), range(_CONTENDERS)))
    winners = [number for number, won in enumerate(made) if won]
    if len(winners) != 1 or files.read(name) != str(winners[0]).encode():
        words = (
            f"{len(winners)} of {_CONTENDERS} who made one file at {files.location} were told that it is theirs. "
            "Sweeps there would compute the same cells: run one at a time, or name another with store="
        )
        return Line(name="claims", verdict="mend", words=words)
    files.touch(name)
    if abs(age := files.age(name)) > _YOUNG:
        words = (
            f"a file that was touched now is {age:.0f} s old at {files.location}: sweeps would take each other for "
            "dead. Name another with store="
        )
        return Line(name="claims", verdict="mend", words=words)
    words = f"of {_CONTENDERS} at once one made the file, and the others were told"
    return Line(name="claims", verdict="pass", words=words)
