"""The end of a sweep, and a run that was finished before: its table, in a second.

Planning needs torch, which takes seconds to import. So a run keeps a mark of all that decided its plan; as long as
that is as it was, the plan is too, and its results are looked up without being planned again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection
from pathlib import Path

import pandas as pd
from rich.console import Console

from prune_bench.catalogue import code_mark
from prune_bench.config import Experiment, experiment_values
from prune_bench.errors import PruneBenchError
from prune_bench.places import data_root, tree_mark
from prune_bench.report.results import load_results
from prune_bench.report.table import CAPTION, rich_table
from prune_bench.sweep.run_folder import read_cells
from prune_bench.tracking import Mirror
from prune_bench.untrusted import say

_DECIDES_NOTHING = ("output", "executor", "devices", "limits", "wandb")


def plan_mark(experiment: Experiment) -> str:
    """A hash of what decides an experiment's plan: itself, this package's code, and its data as the disk has it.

    Returns:
        Hexadecimal; empty if other packages add to the registries, whose code is not looked at.
    """
    if not (code := code_mark()):
        return ""
    values = {key: value for key, value in experiment_values(experiment).items() if key not in _DECIDES_NOTHING}
    sha = hashlib.sha256(json.dumps([code, values], sort_keys=True).encode())
    data = data_root(str(experiment.data.options.get("root", ""))) / experiment.data.name
    sha.update(tree_mark(data).encode())
    return sha.hexdigest()


def find_finished(experiment: Experiment, say: Callable[[str], None]) -> pd.DataFrame | None:
    """The experiment's results if it was run to its end and nothing has changed since, else None.

    Args:
        experiment: What is asked for.
        say: Told of each damaged artifact.
    """
    folder = experiment.folder
    try:
        cells = read_cells(folder)
    except PruneBenchError:
        return None
    if not cells.plan or cells.plan != plan_mark(experiment) or cells.store != experiment.store:
        return None
    results = load_results(folder, say=say)
    return results if set(results.status) <= {"done", "diverged"} else None


def close_sweep(
    experiment: Experiment, results: pd.DataFrame, asked: Collection[str], mirror: Mirror, console: Console
) -> None:
    """Ends the mirror, writes ``results.csv`` and ``.parquet``, and prints the table and where everything lies.

    Args:
        experiment: What was run.
        results: Of its whole folder.
        asked: Keys of the cells that were asked for; of others only those that are done are shown.
        mirror: Ended here.
        console: Where to print.
    """
    folder = experiment.folder
    if unsent := mirror.close():
        words = f"{unsent} runs have not reached W&B; send them with: prune-bench sync {folder}"
        why = mirror.last_trouble()
        say(console, words + (f"\n  W&B said: {why}" if why else ""), "yellow")
    keep(lambda: results.to_csv(folder / "results.csv", index=False), console)
    keep(lambda: results.to_parquet(folder / "results.parquet", index=False), console)
    console.print(rich_table(results[results.key.isin(set(asked)) | (results.status == "done")]))
    console.print(CAPTION, style="dim", highlight=False)
    wandb = "" if mirror.mode == "disabled" else f"; W&B ({mirror.mode}) in {folder / 'wandb'}"
    where = f"results: {folder / 'results.csv'} and .parquet; artifacts in {experiment.store_location}{wandb}"
    say(console, where)
    if diverged := int((results.status == "diverged").sum()):
        say(console, f"{diverged} cells diverged; see the column reason in results.csv", "yellow")


def show_page(folder: Path, results: pd.DataFrame, console: Console) -> None:
    """Writes ``report.html``, unless it tells of these results already, and names it: a sweep's last line.

    Args:
        folder: The run's.
        results: Of all of it.
        console: Where to print.
    """
    from prune_bench.report.build import PAGE, has_page, make_report, write_page

    if not has_page(folder, results):
        keep(lambda: write_page(make_report([folder]), folder), console)
    if (folder / PAGE).exists():
        say(console, f"the comparison as a page: {folder / PAGE}")


def keep(write: Callable[[], object], console: Console) -> None:
    """Writes what can be written again from the store; a full disk is no reason to stop."""
    try:
        write()
    except OSError as error:
        say(console, f"not written: {error}; run the same command again to have it", "yellow")
