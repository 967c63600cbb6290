"""A run's results as a table: a row a cell, read from artifacts only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from prune_bench.sweep.run_folder import read_cells, run_store


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
    store, records = run_store(folder, say), []
    for entry in read_cells(folder).rows:
        artifact = store.read(entry["key"])
        record = {"status": "failed" if entry.get("reason") else "missing", "reason": entry.get("reason", "")}
        records.append(
            {"key": entry["key"], "cell": entry["cell"]} | (record if artifact is None else artifact.record)
        )
    return records


def load_results(run: str | Path, say: Callable[[str], None] | None = None) -> pd.DataFrame:
    """A run's results, a row a cell.

    Args:
        run: The sweep's folder, for example ``runs/smoke``.
        say: Told of each damaged artifact; None to log it.

    Returns:
        Columns ``model data prune_at method density variant seed status reason``, the metrics of
        :data:`prune_bench.vocabulary.METRICS` (accuracies are fractions, times seconds), ``device``, ``lanes``
        (cells that were trained side by side), versions and the cell's ``key``. The ``density`` is the one asked
        for; ``kept`` and ``total`` say what it came to.

    Raises:
        PruneBenchError: The folder is no run.
    """
    rows = []
    for record in read_records(run, say):
        metrics = {k: v for k, v in record.get("metrics", {}).items() if k != "density"}
        rows.append(
            {
                **record["cell"],
                "status": record["status"],
                "reason": record.get("reason", ""),
                **metrics,
                **record.get("made_by", {}),
                "key": record["key"],
            }
        )
    return pd.DataFrame(rows)
