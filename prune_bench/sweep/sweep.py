"""A sweep from an experiment to a finished run."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from prune_bench.config import Experiment, save_experiment
from prune_bench.data import load_data
from prune_bench.data.protocol import DataSet
from prune_bench.report.results import load_results, read_records
from prune_bench.report.table import rich_table
from prune_bench.sweep.cells import check
from prune_bench.sweep.executors import find_devices, make_executor
from prune_bench.sweep.packs import make_packs, pack_sizes
from prune_bench.sweep.progress import Display
from prune_bench.sweep.runner import Progress, failure_file, missing_stages, run_plan
from prune_bench.sweep.stages import Plan, Stage, make_plan
from prune_bench.sweep.store import Store
from prune_bench.tracking import CellRun, Mirror


def prepare(experiment: Experiment) -> Plan:
    """Checks the experiment, gets its data and plans it.

    Raises:
        ConfigError: Something in the experiment cannot be done.
        DataError: The data set is not there and cannot be fetched.
    """
    check(experiment)
    options = experiment.data.options
    return make_plan(experiment, {seed: load_data(experiment.data.name, options, seed) for seed in experiment.seeds})


def run_sweep(experiment: Experiment, console: Console, *, dry_run: bool = False) -> int:
    """Runs what of the experiment has no result yet, and prints the table.

    Args:
        experiment: What is asked for.
        console: Where to print.
        dry_run: Say what would run, and stop.

    Returns:
        0 if every cell has a result, else 1.

    Raises:
        PruneBenchError: The request is wrong; nothing was run.
        KeyboardInterrupt: Ctrl-C; what was finished is kept.
    """
    plan, devices = prepare(experiment), find_devices(experiment)
    folder = experiment.folder
    store = Store(folder / "store", say=lambda words: console.print(words, style="yellow"))
    todo = missing_stages(plan, store)
    _say_plan(plan, todo, experiment, devices, console)
    if dry_run:
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    save_experiment(experiment, folder / "experiment.yaml")
    _write_cells(plan, folder, {})
    failed: dict[str, str] = {}
    mirror = Mirror(experiment.wandb, folder)
    try:
        if todo:
            failed = _run(experiment, plan, todo, store, devices, mirror, console).failed
    except BaseException:
        mirror.stop()
        raise
    _write_cells(plan, folder, failed)
    unsent = mirror.close()
    if unsent:
        console.print(
            f"{unsent} runs have not reached W&B; send them with: prune-bench sync {folder}", style="yellow"
        )
    return _say_results(folder, plan, failed, store, mirror, console)


def sample_data(experiment: Experiment) -> DataSet:
    """The experiment's data set as its first seed sees it: all seeds' are alike in shape and size."""
    return load_data(experiment.data.name, experiment.data.options, experiment.seeds[0])


def cell_runs(folder: Path) -> list[CellRun]:
    """Every finished cell of a run as W&B is told of it."""
    name = folder.name
    return [_cell_run(record, name) for record in read_records(folder) if "metrics" in record]


def _run(
    experiment: Experiment, plan: Plan, todo: dict[str, Stage], store: Store, devices: list[str], mirror: Mirror,
    console: Console,
) -> Progress:  # fmt: skip
    cells = {key: cell for cell, key in plan.cells.items()}
    executor = make_executor(experiment, devices)
    packs = make_packs(plan, pack_sizes(experiment, sample_data(experiment), devices[0].partition(":")[0]))
    with Display(console, len([key for key in cells if key in todo])) as display:

        def watch(progress: Progress, finished: str | None) -> None:
            if finished in cells and (artifact := store.read(finished)) is not None:
                mirror.send(_cell_run({"key": finished, **artifact.record}, experiment.folder.name))
                display.cell_done(str(cells[finished]), artifact.record)
            if finished is None:
                display.show(progress)

        try:
            return run_plan(
                todo, packs, store, executor, threads=experiment.devices.threads,
                checkpoint_seconds=experiment.limits.checkpoint_seconds, watch=watch,
            )  # fmt: skip
        finally:
            executor.close()


def _cell_run(record: dict[str, Any], group: str) -> CellRun:
    cell, metrics = record["cell"], record["metrics"]
    name = f"{cell['method']} {cell['density']:.4g} {cell['variant']} seed {cell['seed']}"
    options = {f"options/{key}": value for key, value in record["options"].items()}
    return CellRun(
        key=record["key"].partition("-")[2],
        name=name,
        group=group,
        tags=tuple(str(cell[key]) for key in ("method", "model", "data", "variant")),
        config={**cell, **options},
        curves=record["curves"],
        summary={**metrics, "status": record["status"], **record["made_by"]},
        layers=record["layers"],
    )


def _write_cells(plan: Plan, folder: Path, failed: dict[str, str]) -> None:
    rows = [{"cell": asdict(cell), "key": key, "reason": failed.get(key, "")} for cell, key in plan.cells.items()]
    aside = folder / f".cells.{os.getpid()}.part"
    aside.write_text(json.dumps(rows))
    aside.replace(folder / "cells.json")


def _say_plan(
    plan: Plan, todo: dict[str, Stage], experiment: Experiment, devices: list[str], console: Console
) -> None:
    say: Callable[[str], None] = lambda words: console.print(words, highlight=False)  # noqa: E731
    counts = Counter(stage.kind for stage in todo.values())
    alone = {
        "ranking": len(plan.cells),
        "state": len(plan.cells),
        "ticket": len(plan.cells),
        "training": len(plan.cells),
    }
    say(f"[bold]{experiment.name}[/bold]: {len(plan.cells)} cells, {len(plan.stages)} stages, {len(todo)} to do")
    if todo:
        parts = [
            f"{counts[kind]} {kind}s" for kind in ("state", "ranking", "ticket", "training", "result") if counts[kind]
        ]
        shared = sum(alone.values()) - sum(1 for s in plan.stages.values() if s.kind in alone)
        epochs = sum(stage.cost for stage in todo.values())
        say(f"  to do: {', '.join(parts)}; about {epochs:,.0f} dense epochs")
        if shared > 0:
            say(f"  shared: {shared} stages fewer than if every cell stood alone")
    names = ", ".join(f"{count} x {name}" for name, count in Counter(devices).items())
    say(f"  devices: {names}; {experiment.devices.threads} thread(s) a slot; results in {experiment.folder}")


def _say_results(
    folder: Path, plan: Plan, failed: dict[str, str], store: Store, mirror: Mirror, console: Console
) -> int:
    results = load_results(folder)
    results.to_csv(folder / "results.csv", index=False)
    console.print(rich_table(results))
    console.print(
        "Differences are in points of accuracy against the original ticket of the same seed; search cost is in\n"
        "seconds and in epochs of dense training. Effective density counts kept weights on a path from input\n"
        "to output.",
        style="dim", highlight=False,
    )  # fmt: skip
    wandb = "" if mirror.mode == "disabled" else f"; W&B ({mirror.mode}) in {folder / 'wandb'}"
    console.print(f"results: {folder / 'results.csv'}; artifacts in {store.folder}{wandb}", soft_wrap=True)
    if diverged := int((results.status == "diverged").sum()):
        console.print(f"{diverged} cells diverged; see the column reason in results.csv", style="yellow")
    causes = {key: reason for key, reason in failed.items() if not reason.startswith("needs ")}
    for key, reason in causes.items():
        console.print(f"failed: {plan.stages[key].label}: {reason}\n  {failure_file(store, key)}", style="red")
    return 1 if failed else 0
