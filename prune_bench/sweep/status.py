"""``prune-bench status``: how a run stands, told by its sweeps' own words and by its store."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from prune_bench.sweep.failures import read_failure
from prune_bench.sweep.progress import clock, render
from prune_bench.sweep.run_folder import read_cells, read_statuses, run_store
from prune_bench.untrusted import printable

_EVERY = 1.0  # seconds between two looks


def show_status(folder: Path, console: Console, *, as_json: bool = False, watch: bool = False) -> int:
    """Prints where a run stands.

    Args:
        folder: The run's.
        console: Where.
        as_json: As data: with ``watch`` a line a look.
        watch: Look every second until no sweep is at work.

    Returns:
        0, or 1 if a cell has failed.

    Raises:
        PruneBenchError: The folder is no run's.
    """
    status = run_status(folder)
    if as_json:
        print(json.dumps(status, indent=None if watch else 1))
        while watch and status["running"]:
            time.sleep(_EVERY)
            status = run_status(folder)
            print(json.dumps(status), flush=True)
    elif watch:
        with Live(_picture(folder, status), console=console, auto_refresh=False) as live:
            while status["running"]:
                time.sleep(_EVERY)
                status = run_status(folder)
                live.update(_picture(folder, status), refresh=True)
    else:
        console.print(_picture(folder, status))
    return 1 if status["cells"].get("failed") else 0


def run_status(folder: Path) -> dict[str, Any]:
    """Where a run stands, as plain data.

    Returns:
        ``cells``: how many are ``done``, ``failed`` or ``missing``, counted in the store; ``running``: whether a
        sweep is at work; ``sweeps``: a :class:`prune_bench.sweep.progress.Snapshot` of each, and its ``state``.
    """
    store, cells = run_store(folder), read_cells(folder)
    done = {row["key"] for row in cells.rows if store.has(row["key"])}
    left = [row for row in cells.rows if row["key"] not in done]
    failed = [row for row in left if row.get("reason") or read_failure(store, row["key"])]
    counts = Counter(done=len(done), failed=len(failed), missing=len(left) - len(failed))
    sweeps = [{"state": state, **asdict(now)} for now, state in read_statuses(folder)]
    return {"cells": dict(counts), "running": any(s["state"] == "running" for s in sweeps), "sweeps": sweeps}


def _picture(folder: Path, status: dict[str, Any]) -> RenderableType:
    counts = ", ".join(f"{count} {what}" for what, count in status["cells"].items())
    lines: list[RenderableType] = [Text(printable(f"{folder}: cells: {counts}"))]
    for now, state in read_statuses(folder):
        lines.append(Text(f"a sweep, {state}, last heard of {clock(time.time() - now.updated)} ago", style="bold"))
        lines.append(render(now))
    if not status["running"] and status["cells"]["missing"]:
        lines.append(Text("no sweep is at work; prune-bench sweep goes on from here"))
    return Group(*lines)
