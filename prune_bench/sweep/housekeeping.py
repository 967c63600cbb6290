"""Keeping house in a run: removing what no cell needs, packing a run into one file, and laying another's into it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prune_bench.config import save_experiment
from prune_bench.errors import PruneBenchError
from prune_bench.sweep.archive import Archive, open_archive, write_archive
from prune_bench.sweep.claims import cleaning, living_claims
from prune_bench.sweep.run_folder import (
    RunCells,
    named_keys,
    note_name,
    read_cells,
    read_recipe,
    register_run,
    row_keys,
    run_store,
    write_cells,
)
from prune_bench.sweep.store import Store, key_of

_KEPT_FOR_GOOD = ("result", "ticket")
_BESIDE = (("failures", "json"), ("logs", "log"))


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What was removed, or would be.

    Attributes:
        names: Among the store's files.
        size: Their bytes.
        computed: Results and tickets among them, that no run of the store names.
        kept_for: Cells without a result, of other experiments or runs, for which all searches and trainings stay.
    """

    names: tuple[str, ...]
    size: int
    computed: tuple[str, ...] = ()
    kept_for: int = 0

    def words(self) -> str:
        """What goes, by kind."""
        kinds = Counter((key_of(name) or name).partition("-")[0].partition("/")[0] for name in self.names)
        parts = ", ".join(f"{count} of {kind}" for kind, count in sorted(kinds.items()))
        return f"{len(self.names)} files of {self.size / 1e6:,.1f} MB" + (f" ({parts})" if parts else "")


def clean(
    folder: Path, needed: Collection[str], unfinished: Collection[str], *, dry_run: bool = False,
    confirm: Callable[[Swept], bool] = lambda swept: False,
) -> Swept:  # fmt: skip
    """Removes from a run's store what no result needs.

    Results and tickets stay that any row of the folder, or any run that has used the store, names. States, searches,
    trainings and checkpoints stay as long as an unfinished cell needs them. Damaged artifacts, dead sweeps' claims
    and logs of what is gone are removed.

    Args:
        folder: The run's.
        needed: Keys of all the stages of its plan.
        unfinished: Those that cells without a result need.
        dry_run: Say what would go, and remove nothing.
        confirm: Asked if results or tickets would go that no run names; without its yes nothing is removed.

    Raises:
        PruneBenchError: The folder is no run's, a sweep is at work on it, its store may serve other runs, the disk
            cannot be written, or the removal of results was not confirmed.
    """
    if shared := read_cells(folder).store:
        raise PruneBenchError(f"store={shared} may serve other runs too: remove from it by hand what you know")
    store = run_store(folder)
    if held := living_claims(store.files):
        raise PruneBenchError(f"a sweep is at work on {store.location} ({len(held)} claims): wait for it, or stop it")
    if dry_run:
        return _to_remove(folder, store, needed, unfinished)
    try:
        with cleaning(store.files):
            swept = _to_remove(folder, store, needed, unfinished)
            if swept.computed and not confirm(swept):
                words = f"{len(swept.computed)} results and tickets that no run names would be removed"
                raise PruneBenchError(f"{words}: --yes removes them, --dry-run removes nothing")
            for name in swept.names:
                store.files.remove(name)
    except OSError as error:
        raise PruneBenchError(f"{store.location} cannot be cleaned: {error}") from None
    return swept


def _to_remove(folder: Path, store: Store, needed: Collection[str], unfinished: Collection[str]) -> Swept:
    cells, notes = read_cells(folder), named_keys(store)
    rows = [*cells.rows, *cells.earlier]
    foreign = [row for row in rows if row["key"] not in needed]
    named = {key for row in rows for key in row_keys(row)}.union(*notes.values())
    others = {key for note, keys in notes.items() if note != note_name(folder) for key in keys}
    half = others.difference(needed) | {row["key"] for row in cells.rows if row in foreign and not row.get("reason")}
    half = {key for key in half if key.startswith("result-") and not store.has(key)}
    folders = ["runs/", "claims/clean-"]
    if any("ticket" not in row for row in foreign):  # written by a version that did not say which is whose
        folders.append("ticket/")
    if unfinished or half:
        folders.append("checkpoints/")
    if half:
        folders += ["state/", "ranking/", "training/", "ticket/"]
    kept = {key for key in needed if key.startswith(_KEPT_FOR_GOOD)} | set(unfinished) | named
    names = {Store.name(key) for key in kept}
    names |= {f"{what}/{key}.{end}" for key in (*needed, *named) for what, end in _BESIDE}
    gone = tuple(n for n in store.files.names() if n not in names and not n.startswith(tuple(folders)))
    computed = tuple(name for name in gone if name.startswith(tuple(f"{kind}/" for kind in _KEPT_FOR_GOOD)))
    return Swept(names=gone, size=sum(map(store.files.size, gone)), computed=computed, kept_for=len(half))


def export_run(folder: Path, archive: Path, keys: Iterable[str]) -> int:
    """Writes a run into one zip file that :func:`import_run` reads.

    Args:
        folder: The run's.
        archive: Written whole or not at all.
        keys: Of its plan's stages; those that are in the store go along, and so do the results and tickets of all
            other rows of the folder.

    Returns:
        How many artifacts it holds.

    Raises:
        PruneBenchError: The folder is no run's, or the file cannot be written.
    """
    cells, store = read_cells(folder), run_store(folder)
    wanted = dict.fromkeys(keys)
    rows = [*cells.rows, *cells.earlier]
    unsaid = any("ticket" not in row for row in rows if row["key"] not in wanted)
    wanted |= dict.fromkeys(key for row in rows for key in row_keys(row))
    if unsaid and not cells.store:
        wanted |= {key: None for name in store.files.names("ticket") if (key := key_of(name))}
    found = ((key, artifact) for key in wanted if (artifact := store.read(key)) is not None)
    return write_archive(folder, archive, cells, found)


def import_run(archive: Path, folder: Path) -> tuple[int, int]:
    """Lays an exported run into a run's folder, new or not; what is there already stays.

    Args:
        archive: Of :func:`export_run`.
        folder: The run's; if it is new it becomes the exported one.

    Returns:
        How many artifacts were new, and how many cells the run has now.

    Raises:
        PruneBenchError: The file is no such archive, something in it is damaged or contradicts the run, or the
            folder cannot be written; nothing was changed.
    """
    theirs = open_archive(archive)
    if (folder / "cells.json").exists():
        ours, store = read_cells(folder), run_store(folder)
        cells = _together(ours, theirs, folder)
    elif (folder / "experiment.yaml").exists():
        raise PruneBenchError(f"{folder} holds an experiment.yaml and is no run: import into another folder")
    else:
        cells, store = theirs.cells, Store(folder / "store")
    fresh = [path for path in (folder, *folder.parents) if not path.exists()]
    new: list[str] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "cells.json").exists():
            save_experiment(theirs.experiment, folder / "experiment.yaml")
        for key, data in theirs.artifacts():
            if not store.has(key):
                new.append(key)
                store.files.write(Store.name(key), data)
        write_cells(folder, cells)
    except (OSError, ValueError) as error:
        _undo(folder, store, new, fresh)
        raise PruneBenchError(f"{folder} cannot take it: {error}; nothing was changed") from None
    register_run(folder, store, cells)
    return len(new), len(cells.rows)


def _together(ours: RunCells, theirs: Archive, folder: Path) -> RunCells:
    recipe = read_recipe(folder)
    mine = {row["key"]: {"recipe": recipe, **row} for row in ours.rows}
    places = {_place(row): row["key"] for row in ours.rows}
    for row in theirs.cells.rows:
        shared = row["key"] in mine
        if not shared and (row["recipe"] != recipe or places.get(_place(row), row["key"]) != row["key"]):
            cell = row["cell"]
            raise PruneBenchError(
                f"{theirs.path}: {cell['method']} at density {cell['density']:.4g}, seed {cell['seed']} was computed "
                f"with another recipe or other options than {folder}'s: import it into a folder of its own, and "
                "compare both with prune-bench report"
            )  # fmt: skip
    rows = {row["key"]: row for row in theirs.cells.rows} | mine
    earlier = {row["key"]: row for row in (*theirs.cells.earlier, *ours.earlier) if row["key"] not in rows}
    return replace(ours, rows=list(rows.values()), earlier=list(earlier.values()), plan="")


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted(row["cell"].items()))


def _undo(folder: Path, store: Store, new: Iterable[str], fresh: Iterable[Path]) -> None:
    """Takes back what an import has written; folders that it has made go if nothing is left in them."""
    with contextlib.suppress(OSError):
        for key in new:
            store.files.remove(Store.name(key))
    if not (folder / "cells.json").exists():
        with contextlib.suppress(OSError):
            (folder / "experiment.yaml").unlink()
    made = {
        parent for key in new for parent in (folder / "store" / Store.name(key)).parents if folder in parent.parents
    }
    for path in (*sorted(made, reverse=True), *fresh):
        with contextlib.suppress(OSError):  # something else is in it
            path.rmdir()
