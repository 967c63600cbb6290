"""Keeping house in a run: removing what no cell needs, packing a run into one file, and laying another's into it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from prune_bench.errors import PruneBenchError
from prune_bench.sweep.claims import living_claims
from prune_bench.sweep.run_folder import RunCells, read_cells, run_store, write_cells
from prune_bench.sweep.store import Store, decode

_KEPT_FOR_GOOD = ("result", "ticket")


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What was removed, or would be.

    Attributes:
        names: Among the store's files.
        size: Their bytes.
    """

    names: tuple[str, ...]
    size: int


def clean(folder: Path, needed: Collection[str], unfinished: Collection[str], *, dry_run: bool = False) -> Swept:
    """Removes from a run's store what no result needs.

    Results and tickets of the run's cells stay. States, searches, trainings and checkpoints stay as long as an
    unfinished cell needs them. Other experiments' artifacts, damaged ones, dead sweeps' claims and logs of what is
    gone are removed.

    Args:
        folder: The run's.
        needed: Keys of all the stages of its plan.
        unfinished: Those that cells without a result need.
        dry_run: Say what would go, and remove nothing.

    Raises:
        PruneBenchError: The folder is no run's, a sweep is at work on it, or its store may serve other runs.
    """
    if shared := read_cells(folder).store:
        raise PruneBenchError(f"store={shared} may serve other runs too: remove from it by hand what you know")
    store = run_store(folder)
    if held := living_claims(store.files):
        raise PruneBenchError(f"a sweep is at work on {store.location} ({len(held)} claims): wait for it, or stop it")
    kept = {key for key in needed if key.startswith(_KEPT_FOR_GOOD)} | set(unfinished)
    names = {Store.name(key) for key in kept} | {f"{what}/{key}.{end}" for key in needed for what, end in _BESIDE}
    if unfinished:
        names |= set(store.files.names("checkpoints"))
    gone = tuple(name for name in store.files.names() if name not in names)
    size = sum(store.files.size(name) for name in gone)
    for name in () if dry_run else gone:
        store.files.remove(name)
    return Swept(names=gone, size=size)


_BESIDE = (("failures", "json"), ("logs", "log"))


def export_run(folder: Path, archive: Path, keys: Iterable[str]) -> int:
    """Writes a run into one zip file that :func:`import_run` reads.

    Args:
        folder: The run's.
        archive: Written whole or not at all.
        keys: Of its plan's stages; those that are in the store go along.

    Returns:
        How many artifacts it holds.

    Raises:
        PruneBenchError: The folder is no run's.
    """
    cells, store = read_cells(folder), run_store(folder)
    aside = archive.with_name(f".{archive.name}.part")
    count = 0
    try:
        # Artifacts are dense numbers, which do not compress.
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as bundle:
            bundle.writestr("cells.json", json.dumps(asdict(cells) | {"store": ""}))
            bundle.write(folder / "experiment.yaml", "experiment.yaml")
            for key in keys:
                if store.has(key):
                    bundle.writestr(f"store/{Store.name(key)}", store.files.read(Store.name(key)))
                    count += 1
        aside.replace(archive)
    finally:
        aside.unlink(missing_ok=True)
    return count


def import_run(archive: Path, folder: Path) -> tuple[int, int]:
    """Lays an exported run into a run's folder, new or not; what is there already stays.

    Args:
        archive: Of :func:`export_run`.
        folder: The run's; if it is new it becomes the exported one.

    Returns:
        How many artifacts were new, and how many cells the run has now.

    Raises:
        PruneBenchError: The file is no such archive, or an artifact in it is damaged; nothing was changed.
    """
    try:
        with zipfile.ZipFile(archive) as bundle:
            theirs = RunCells(**json.loads(bundle.read("cells.json")))
            experiment = bundle.read("experiment.yaml")
            for _ in _artifacts(bundle):  # all of them sound, or nothing is changed
                pass
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise PruneBenchError(f"{archive} is no exported run: {error}") from None
    if not (folder / "cells.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "experiment.yaml").write_bytes(experiment)
        write_cells(folder, RunCells(store="", rows=[]))
    ours, store = read_cells(folder), run_store(folder)
    new = 0
    with zipfile.ZipFile(archive) as bundle:
        for name, data in _artifacts(bundle):
            if not store.files.exists(name):
                store.files.write(name, data)
                new += 1
    rows = {row["key"]: row for row in theirs.rows} | {row["key"]: row for row in ours.rows}
    write_cells(folder, RunCells(store=ours.store, rows=list(rows.values())))
    return new, len(rows)


def _artifacts(bundle: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    """Names in the store and bytes, every one verified."""
    for name in bundle.namelist():
        if name.startswith("store/"):
            data = bundle.read(name)
            if ".." in name or not name.endswith(".safetensors"):
                raise ValueError(f"{name} has no place in a store")
            decode(data)
            yield name.removeprefix("store/"), data
