"""What lies in a run's folder beside its store: the experiment, its cells, and how the sweeps on it are doing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
import subprocess
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import prune_bench
from prune_bench.config import Recipe
from prune_bench.errors import PruneBenchError
from prune_bench.foreign import read_run_values
from prune_bench.identity import host, identity, is_alive
from prune_bench.options import later_defaults
from prune_bench.sweep.progress import Snapshot
from prune_bench.sweep.records import CELLS, HISTORY, KEYS, RATES, STATUS, StatusRecord
from prune_bench.sweep.store import Store
from prune_bench.untrusted import parse_json, printable, read_as, without_user

_DEAD_AFTER = 30.0  # seconds without a word from a sweep on another machine


DATA_PLACES = ("root", "workers")
"""Options of data sets that say where data lies and who loads it; they change no result."""


@dataclass(frozen=True, kw_only=True)
class RunCells:
    """The cells of a run.

    Attributes:
        store: Where its artifacts are; empty for the folder ``store`` beside.
        plan: Mark of what decided the plan, of :func:`prune_bench.sweep.finished.plan_mark`; empty if unknown.
        rows: For each cell ``cell``, ``key``, ``ticket`` (the key of its ticket), ``recipe`` (of
            :func:`recipe_mark`) and, if it has failed, ``reason``. The experiment's own, and those of other sweeps
            and imports that can be compared with them.
        earlier: Rows that have no place beside these: of another recipe, or another key for the same cell. They are
            in no table; their results are kept.
    """

    store: str
    rows: list[dict[str, Any]]
    plan: str = ""
    earlier: list[dict[str, Any]] = field(default_factory=list)


def read_cells(folder: Path) -> RunCells:
    """The cells of a run.

    Raises:
        PruneBenchError: The folder is no run's.
    """
    try:
        return parse_cells((folder / "cells.json").read_bytes())
    except (OSError, ValueError) as error:
        raise PruneBenchError(f"{printable(str(folder))} is not the folder of a sweep: {error}") from None


def parse_cells(text: bytes) -> RunCells:
    """The cells that a ``cells.json`` names; each key once.

    Raises:
        ValueError: It is none.
    """
    said: Any = read_as(CELLS, parse_json(text))
    said["rows"] = list({row["key"]: row for row in reversed(said["rows"])}.values())[::-1]
    return RunCells(**said)


def write_cells(folder: Path, cells: RunCells) -> None:
    """Writes them whole or not at all."""
    _replace(folder / "cells.json", asdict(cells) | {"store": without_user(cells.store)})


def write_plan_cells(folder: Path, cells: RunCells, recipe: str) -> None:
    """Writes an experiment's own cells, and keeps the rows that others have left in the folder.

    Args:
        folder: The run's.
        cells: The experiment's own.
        recipe: What its networks are made and trained by, of :func:`recipe_mark`.
    """
    own = [{**row, "recipe": recipe} for row in cells.rows]
    keys, places, earlier = {row["key"] for row in own}, {_place(row) for row in own}, []
    for row in _rows_before(folder):
        if row["key"] in keys:
            continue
        keys.add(row["key"])
        if row["recipe"] == recipe and _place(row) not in places:
            places.add(_place(row))
            own.append(row)
        else:
            earlier.append(row)
    write_cells(folder, replace(cells, rows=own, earlier=earlier))


def _rows_before(folder: Path) -> list[dict[str, Any]]:
    if not (folder / "cells.json").is_file():
        return []
    before, recipe = read_cells(folder), read_recipe(folder)
    return [{"recipe": recipe, **row} for row in (*before.rows, *before.earlier)]


def _place(row: Mapping[str, Any]) -> str:
    return json.dumps(row["cell"], sort_keys=True)


def row_keys(row: Mapping[str, Any]) -> list[str]:
    """The keys that a row names: of its result, and of its ticket where the row says it."""
    return [row["key"], *([row["ticket"]] if "ticket" in row else [])]


def read_recipe(folder: Path) -> str:
    """The :func:`recipe_mark` of a run's experiment; empty if it has none that can be read."""
    try:
        return recipe_mark(read_run_values(folder / "experiment.yaml"))
    except PruneBenchError:
        return ""


def recipe_mark(values: Mapping[str, Any]) -> str:
    """A short mark of how an experiment's networks are made and trained.

    Args:
        values: Of the experiment, as its file has them.
    """
    unsaid = {**later_defaults(Recipe), "pack": ..., "eval_batch_size": ...}
    train, data = dict(values.get("train") or {}), values.get("data")
    train = {key: value for key, value in train.items() if key not in unsaid or unsaid[key] not in (..., value)}
    data = (
        {key: value for key, value in data.items() if key not in DATA_PLACES} if isinstance(data, Mapping) else data
    )
    said = json.dumps([values.get("model"), data, train], sort_keys=True, default=str)
    return f"recipe {zlib.crc32(said.encode()):08x}"


def note_name(folder: Path) -> str:
    """Where in a store a run notes what it names."""
    return f"runs/{hashlib.sha256(str(folder.resolve()).encode(errors='replace')).hexdigest()[:32]}"


def register_run(folder: Path, store: Store, cells: RunCells) -> None:
    """Notes in a store which results and tickets a run names, so that no other run's ``clean`` removes them.

    What it named before stays noted if it is there; a store that cannot be written is not cleaned either.
    """
    keys, before = {key for row in (*cells.rows, *cells.earlier) for key in row_keys(row)}, set[str]()
    with contextlib.suppress(FileNotFoundError, PruneBenchError):
        before = _read_note(store, note_name(folder))
    if not keys <= before:
        keys |= {key for key in before - keys if store.has(key)}
        with contextlib.suppress(OSError):
            store.files.write(note_name(folder), json.dumps(sorted(keys)).encode())


def named_keys(store: Store) -> dict[str, set[str]]:
    """The results and tickets that the runs of a store name, by the name of the run's note.

    Raises:
        PruneBenchError: A run's note cannot be read.
    """
    return {name: _read_note(store, name) for name in store.files.names("runs")}


def _read_note(store: Store, name: str) -> set[str]:
    try:
        return {*read_as(KEYS, parse_json(store.files.read(name)))}
    except ValueError as error:
        words = f"{name} in {store.location} does not say what a run needs ({error}); remove it if no run needs it"
        raise PruneBenchError(words) from None


def run_store(folder: Path, say: Callable[[str], None] | None = None) -> Store:
    """The store of a run."""
    location = read_cells(folder).store or folder / "store"
    return Store(location) if say is None else Store(location, say)


def read_rates(folder: Path, device: str) -> dict[str, float]:
    """Seconds a dense epoch that stages of this run took before, by ``kind method``; empty if there were none.

    Args:
        folder: The run's.
        device: Its kind, as :func:`prune_bench.sweep.executors.device_kind` gives it.
    """
    return _all_rates(folder).get(device, {})


def write_rates(folder: Path, device: str, rates: dict[str, float]) -> None:
    """Keeps what was measured, beside what was before and what was on other kinds of device."""
    if rates:
        known = _all_rates(folder)
        _replace(folder / "costs.json", known | {device: known.get(device, {}) | rates})


def _all_rates(folder: Path) -> dict[str, dict[str, float]]:
    with contextlib.suppress(OSError, ValueError):
        return read_as(RATES, parse_json((folder / "costs.json").read_bytes()))
    return {}


def read_lanes(folder: Path) -> dict[str, int]:
    """The sizes of packs that this run has begun with, by what was decided on; empty if none were.

    Raises:
        PruneBenchError: The file is damaged. It is not passed over: other packs end with other last bits.
    """
    path = folder / "packs.json"
    try:
        said = json.loads(path.read_text())
        if not all(type(lanes) is int and lanes > 0 for lanes in said.values()):
            raise ValueError("not every size is a number above 0")
        return dict(said)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise PruneBenchError(
            f"{path} cannot be read: {error}. It keeps the sizes of this run's packs; without it they are decided "
            "anew, and cells computed from then on may differ in the last bits: remove it to accept that"
        ) from None


def write_lanes(folder: Path, lanes: dict[str, int]) -> dict[str, int]:
    """Keeps sizes of packs, and gives all that are kept; what was decided before stands.

    Raises:
        PruneBenchError: The file cannot be written.
    """
    try:
        _replace(folder / "packs.json", lanes | read_lanes(folder))
    except OSError as error:
        raise PruneBenchError(
            f"{folder / 'packs.json'} cannot be written: {error}; name another folder with output="
        ) from None
    return read_lanes(folder)


def read_history(folder: Path) -> list[dict[str, str]]:
    """The sweeps that computed something here, oldest first: ``when``, ``command``, ``version``, ``commit``."""
    with contextlib.suppress(OSError, ValueError):
        entries = read_as(HISTORY, parse_json((folder / "history.json").read_bytes()))
        return [{name: printable(str(words)) for name, words in entry.items()} for entry in entries]
    return []


def add_history(folder: Path) -> None:
    """Notes the sweep that begins now: its command, and the code it runs."""
    now = {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": without_user(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        "version": prune_bench.__version__,
        "commit": _commit(),
    }
    _replace(folder / "history.json", [*read_history(folder), now])


def _commit() -> str:
    """The git commit of this package's checkout, ``+ changes`` if it has been edited; empty if it is no checkout."""
    home = Path(prune_bench.__file__).parent
    words = ["git", "-C", str(home), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty= + changes"]
    tracked = ["git", "-C", str(home), "ls-files", "--error-unmatch", "__init__.py"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(tracked, capture_output=True, check=True, timeout=10)
        return subprocess.run(words, capture_output=True, check=True, text=True, timeout=10).stdout.strip()
    return ""


class StatusFile:
    """One sweep's word on where it stands, for ``prune-bench status``.

    Args:
        folder: The run's.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "status" / f"{uuid.uuid4().hex}.json"
        for path, said in _statuses(folder):
            if not _is_alive(said):
                path.unlink(missing_ok=True)

    def write(self, now: Snapshot) -> None:
        """Writes the sweep's state; a full disk loses the word only."""
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _replace(self._path, {"process": identity(), "snapshot": asdict(now)})


def read_statuses(folder: Path) -> list[tuple[Snapshot, str]]:
    """What the sweeps on a run said last, oldest first, each with ``running`` or ``ended``."""
    found = [(said["snapshot"], "running" if _is_alive(said) else "ended") for _, said in _statuses(folder)]
    return sorted(found, key=lambda pair: pair[0].began)


def _statuses(folder: Path) -> list[tuple[Path, StatusRecord]]:
    found = []
    for path in sorted((folder / "status").glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            found.append((path, read_as(STATUS, parse_json(path.read_bytes()))))
    return found


def _is_alive(said: StatusRecord) -> bool:
    if said["process"]["host"] == host():
        return is_alive(dict(said["process"]))
    return bool(time.time() - said["snapshot"].updated < _DEAD_AFTER)


def _replace(path: Path, content: Any) -> None:
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        aside.write_text(json.dumps(content))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
