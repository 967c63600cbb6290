"""Results as data: a row a cell, read from artifacts only, of one run or several."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from prune_bench.config import Recipe
from prune_bench.errors import PruneBenchError
from prune_bench.options import later_defaults
from prune_bench.sweep.run_folder import read_cells, run_store
from prune_bench.sweep.store import Artifact, Store

_WHERE = ["setting", "prune_at", "method", "density", "variant", "seed"]
_READERS = 32  # requests to a remote store at a time


def read_records(run: str | Path, say: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """Every cell of a run with its record, or why it has none.

    Each has ``key``, ``cell`` and ``status`` (``done``, ``diverged``, ``failed`` or ``missing``).

    Args:
        run: The sweep's folder.
        say: Told of each damaged artifact; None to log it.

    Raises:
        PruneBenchError: The folder is no run.
    """
    folder = Path(run)
    store, rows = run_store(folder, say), read_cells(folder).rows
    records = []
    for entry, artifact in zip(rows, _read_all(store, [entry["key"] for entry in rows])):
        record = {"status": "failed" if entry.get("reason") else "missing", "reason": entry.get("reason", "")}
        records.append(
            {"key": entry["key"], "cell": entry["cell"]} | (record if artifact is None else artifact.record)
        )
    return records


def _read_all(store: Store, keys: list[str]) -> list[Artifact | None]:
    if "://" not in store.location:  # from a disk, decoding takes the time, which threads do not share
        return [store.read(key) for key in keys]
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(store.read, keys))


def load_results(
    *runs: str | Path, say: Callable[[str], None] | None = None, records: Sequence[list[dict[str, Any]]] = ()
) -> pd.DataFrame:
    """Results, a row a cell; of several runs together, each cell once.

    Args:
        runs: Sweeps' folders, for example ``runs/smoke``.
        say: Told of each damaged artifact; None to log it.
        records: What :func:`read_records` gave for each run, where that is at hand.

    Returns:
        The columns of ``docs/results.md``: accuracies are fractions, times seconds. ``setting`` names what is
        compared with what: model, data, pruning point, and the recipe where runs differ in it. Where two runs have
        used one name for a method with different options, the name says which run's it is.

    Raises:
        PruneBenchError: A folder is no run, or two runs have the same name.
    """
    if len({Path(run).name for run in runs}) < len(runs):
        raise PruneBenchError("two of these runs have the same name: rename a folder, so that they can be told apart")
    read = records or [read_records(run, say) for run in runs]
    recipes = [_recipe(Path(run)) for run in runs]
    several = len(set(recipes)) > 1
    frames = [
        _frame(cells, Path(run).name, recipe if several else "") for run, cells, recipe in zip(runs, read, recipes)
    ]
    results = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    return results if len(frames) < 2 else _together(results)


def _frame(records: list[dict[str, Any]], run: str, recipe: str) -> pd.DataFrame:
    rows = []
    for record in records:
        cell = record["cell"]
        metrics = {name: value for name, value in record.get("metrics", {}).items() if name != "density"}
        setting = " · ".join(part for part in (cell["model"], cell["data"], cell["prune_at"], recipe) if part)
        rows.append(
            {
                **cell,
                "status": record["status"],
                "reason": record.get("reason", ""),
                **metrics,
                **record.get("made_by", {}),
                "setting": setting,
                "run": run,
                "key": record["key"],
            }
        )
    return pd.DataFrame(rows)


def _recipe(folder: Path) -> str:
    """A short mark of how a run's networks are made and trained."""
    from omegaconf import OmegaConf

    try:
        made: Any = OmegaConf.to_container(OmegaConf.load(folder / "experiment.yaml"))
    except OSError:
        return "recipe unknown"
    unsaid = {**later_defaults(Recipe), "pack": ..., "eval_batch_size": ...}
    train = {
        key: value
        for key, value in made.get("train", {}).items()
        if key not in unsaid or unsaid[key] not in (..., value)
    }
    said = json.dumps([made.get("model"), made.get("data"), train], sort_keys=True)
    return f"recipe {zlib.crc32(said.encode()):08x}"


def _together(results: pd.DataFrame) -> pd.DataFrame:
    # A cell that failed in one run and is done in another is done.
    results = results.sort_values("status", key=lambda status: status != "done", kind="stable")
    results = results.drop_duplicates("key").sort_index()
    clashing = results[results.duplicated(_WHERE, keep=False)]
    clashes = set(zip(clashing.setting, clashing.method))
    names = [
        f"{method} @ {run}" if (setting, method) in clashes else method
        for setting, method, run in zip(results.setting, results.method, results.run)
    ]
    return results.assign(method=names).reset_index(drop=True)
