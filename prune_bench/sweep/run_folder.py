"""What lies in a run's folder beside its store: the experiment, its cells, and how the sweeps on it are doing."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import prune_bench
from prune_bench.errors import PruneBenchError
from prune_bench.identity import host, identity, is_alive
from prune_bench.sweep.progress import Count, Snapshot
from prune_bench.sweep.store import Store

_DEAD_AFTER = 30.0  # seconds without a word from a sweep on another machine


@dataclass(frozen=True, kw_only=True)
class RunCells:
    """The cells of a run.

    Attributes:
        store: Where its artifacts are; empty for the folder ``store`` beside.
        plan: Mark of what decided the plan, of :func:`prune_bench.sweep.finished.plan_mark`; empty if unknown.
        rows: For each cell ``cell``, ``key`` and, if it has failed, ``reason``.
    """

    store: str
    rows: list[dict[str, Any]]
    plan: str = ""


def read_cells(folder: Path) -> RunCells:
    """The cells of a run.

    Raises:
        PruneBenchError: The folder is no run's.
    """
    try:
        return RunCells(**json.loads((folder / "cells.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise PruneBenchError(f"{folder} is not the folder of a sweep: {error}") from None


def write_cells(folder: Path, cells: RunCells) -> None:
    """Writes them whole or not at all."""
    _replace(folder / "cells.json", asdict(cells))


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
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        found = json.loads((folder / "costs.json").read_text())
        return {kind: dict(rates) for kind, rates in found.items()}
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
        return list(json.loads((folder / "history.json").read_text()))
    return []


def add_history(folder: Path) -> None:
    """Notes the sweep that begins now: its command, and the code it runs."""
    now = {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
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
    found = []
    for _, said in _statuses(folder):
        values = said["snapshot"]
        counts = tuple(Count(**count) for count in values.pop("counts"))
        pairs: dict[str, Any] = {
            name: tuple(tuple(pair) for pair in values.pop(name)) for name in ("running", "failed")
        }
        snapshot = Snapshot(counts=counts, **pairs, **values)
        found.append((snapshot, "running" if _is_alive(said) else "ended"))
    return sorted(found, key=lambda pair: pair[0].began)


def _statuses(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    found = []
    for path in sorted((folder / "status").glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            found.append((path, json.loads(path.read_text())))
    return found


def _is_alive(said: dict[str, Any]) -> bool:
    if said["process"]["host"] == host():
        return is_alive(said["process"])
    return bool(time.time() - said["snapshot"]["updated"] < _DEAD_AFTER)


def _replace(path: Path, content: Any) -> None:
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        aside.write_text(json.dumps(content))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
