"""A sweep from an experiment to a finished run."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from prune_bench.config import Experiment, experiment_values, load_experiment, save_experiment
from prune_bench.data import DeviceData, ImageFolderData, load_data
from prune_bench.data.labels import check_contributed
from prune_bench.data.protocol import DataSet
from prune_bench.device_profile import replay_is_off
from prune_bench.errors import PruneBenchError
from prune_bench.report.results import load_results, read_records
from prune_bench.sweep.cells import Cell, check, check_shares, read_methods
from prune_bench.sweep.claims import sweeping
from prune_bench.sweep.dry_run import probe, say_plan, say_time
from prune_bench.sweep.executors import device_kind, find_devices, make_executor
from prune_bench.sweep.failures import failure_name, forget_failures
from prune_bench.sweep.finished import close_sweep, keep, plan_mark, show_page
from prune_bench.sweep.graph import missing_stages, narrow, with_inputs
from prune_bench.sweep.pack_sizes import pack_sizes
from prune_bench.sweep.packs import make_packs
from prune_bench.sweep.planner import make_plan
from prune_bench.sweep.progress import Display, measured_rates, take_snapshot
from prune_bench.sweep.run_folder import (
    RunCells,
    StatusFile,
    add_history,
    read_cells,
    read_rates,
    recipe_mark,
    register_run,
    run_store,
    write_plan_cells,
    write_rates,
)
from prune_bench.sweep.runner import Progress, run_plan
from prune_bench.sweep.stages import Plan, Stage
from prune_bench.sweep.store import Store
from prune_bench.tracking import CellRun, Mirror
from prune_bench.untrusted import say

_SNAPSHOT_EVERY = 1.0  # seconds


def prepare(experiment: Experiment) -> Plan:
    """Checks the experiment, gets its data and plans it.

    Raises:
        ConfigError: Something in the experiment cannot be done.
        DataError: The data set is not there and cannot be fetched.
    """
    check(experiment)
    options = experiment.data.options
    data = {seed: load_data(experiment.data.name, options, seed) for seed in experiment.seeds}
    first = next(iter(data.values()))
    if not isinstance(first, (DeviceData, ImageFolderData)):  # these check their labels themselves
        check_contributed(first)
    check_shares(experiment, read_methods(experiment), first.samples)
    return make_plan(experiment, data)


def run_sweep(
    experiment: Experiment, console: Console, *, dry_run: bool = False, retry_failed: bool = False,
    only: Collection[Cell] | None = None,
) -> int:  # fmt: skip
    """Runs what of the experiment has no result yet, and prints the table.

    Args:
        experiment: What is asked for.
        console: Where to print.
        dry_run: Say what would run and what it would cost, and stop.
        retry_failed: Try stages again that failed before.
        only: Run these cells alone; the run's folder is the whole experiment's all the same.

    Returns:
        0 if every cell that was asked for has a result, else 1.

    Raises:
        PruneBenchError: The request is wrong; nothing was run.
        KeyboardInterrupt: Ctrl-C; what was finished is kept.
    """
    store = Store(experiment.store_location, say=lambda words: say(console, words, "yellow"))
    check(experiment)
    # Nothing is claimed to look at a finished run, which may lie on a disk that is read-only.
    quiet = dry_run or _is_complete(experiment.folder, store)
    with contextlib.nullcontext() if quiet else sweeping(store.files):
        whole, devices = prepare(experiment), find_devices(experiment)
        plan = whole if only is None else narrow(whole, only)
        todo = missing_stages(plan, store)
        if dry_run:
            say_plan(plan, todo, experiment, devices, console)
            _say_time(todo, experiment, devices, console)
            return 0
        with sweeping(store.files) if quiet and todo else contextlib.nullcontext():
            todo = missing_stages(plan, store) if quiet and todo else todo
            say_plan(plan, todo, experiment, devices, console)
            if retry_failed:
                forget_failures(store, todo)
            return _sweep(experiment, whole, plan, todo, store, devices, console)


def _is_complete(folder: Path, store: Store) -> bool:
    try:
        return all(store.has(row["key"]) for row in read_cells(folder).rows)
    except PruneBenchError:
        return False


def _sweep(
    experiment: Experiment, whole: Plan, plan: Plan, todo: dict[str, Stage], store: Store, devices: list[str],
    console: Console,
) -> int:  # fmt: skip
    others = _reasons(experiment.folder, set(whole.cells.values()) - set(plan.cells.values()))
    _begin(experiment, _cells(experiment, whole, others), todo)
    register_run(experiment.folder, store, read_cells(experiment.folder))
    failed: dict[str, str] = {}
    mirror = Mirror(experiment.wandb, experiment.folder)
    try:
        if todo:
            failed = _run(experiment, plan, todo, store, devices, mirror, console).failed
            keep(lambda: _write(experiment, _cells(experiment, whole, others | failed)), console)
    except BaseException:
        mirror.stop()
        raise
    results = load_results(experiment.folder)
    close_sweep(experiment, results, plan.cells.values(), mirror, console)
    _say_failures(plan, failed, store, console)
    show_page(experiment.folder, results, console)
    return 1 if failed else 0


def _write(experiment: Experiment, cells: RunCells) -> None:
    write_plan_cells(experiment.folder, cells, recipe_mark(experiment_values(experiment)))


def _begin(experiment: Experiment, cells: RunCells, todo: dict[str, Stage]) -> None:
    folder = experiment.folder
    try:
        if (folder / "experiment.yaml").exists() and not (folder / "cells.json").exists():
            raise PruneBenchError(
                f"output={folder} holds an experiment.yaml and is no run: name another with output="
            )
        folder.mkdir(parents=True, exist_ok=True)
        _write(experiment, cells)  # before the file that says by which recipe the rows of earlier sweeps were made
        save_experiment(experiment, folder / "experiment.yaml")
        if todo:
            add_history(folder)
    except OSError as error:
        # A finished run may lie on a disk that is read-only, and can be looked at all the same.
        if todo or not os.path.isfile(folder / "cells.json"):
            raise PruneBenchError(f"output={folder} cannot be written: {error}; name another with output=") from None


def _say_time(todo: dict[str, Stage], experiment: Experiment, devices: list[str], console: Console) -> None:
    rates = read_rates(experiment.folder, device_kind(devices[0]))
    measured = "" in rates
    # This machine tells nothing of a cluster's.
    if todo and (measured or experiment.devices.address is None):
        try:
            rates = rates if measured else probe(experiment, sample_data(experiment), devices[0])
        except Exception as error:  # its cells will fail, and say more
            words = f"  time: not known, for the network cannot be trained: {type(error).__name__}: {error}"
            say(console, words, "yellow")
            return
        say_time(todo, rates, len(devices), console, measured=measured)


def stage_keys(folder: Path) -> tuple[set[str], set[str]]:
    """The keys of all stages of a run's plan, and of those that its unfinished cells need.

    Raises:
        PruneBenchError: The folder is no run's.
    """
    read_cells(folder)
    plan = prepare(load_experiment(folder / "experiment.yaml"))
    store = run_store(folder)
    unfinished = [key for key in plan.cells.values() if not store.has(key)]
    return set(plan.stages), with_inputs(unfinished, plan.stages)


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
    if dashboard := getattr(executor, "dashboard", ""):
        say(console, f"  Ray's dashboard: http://{dashboard}")
    kind = device_kind(devices[0])
    asked = kind == "cuda" and experiment.devices.replay == "auto" and experiment.devices.address is None
    if asked and (why := replay_is_off()):
        say(console, f"  replay is off on this GPU: {why}")
    packs = make_packs(plan, pack_sizes(experiment, sample_data(experiment), kind))
    status, began, last = StatusFile(experiment.folder), time.time(), 0.0
    told: set[str] = set()  # devices whose end was told
    with Display(console) as display:

        def watch(progress: Progress, finished: str | None) -> None:
            nonlocal last
            for place in progress.retired.keys() - told:
                told.add(place)
                words = f"{place} is used no more, workers died on it: {progress.retired[place]}"
                say(console, words, "yellow")
            if finished in cells and (artifact := store.read(finished)) is not None:
                mirror.send(_cell_run({"key": finished, **artifact.record}, experiment.folder.name))
                display.cell_done(str(cells[finished]), artifact.record)
            if time.time() - last > _SNAPSHOT_EVERY:
                show(progress)
                last = time.time()

        def show(progress: Progress) -> None:
            now = take_snapshot(progress, len(cells), began)
            status.write(now)
            display.show(now)

        try:
            progress = run_plan(
                todo,
                packs,
                store,
                executor,
                threads=experiment.devices.threads,
                limits=experiment.limits,
                watch=watch,
                replay=experiment.devices.replay,
            )
            show(progress)
            keep(lambda: write_rates(experiment.folder, kind, measured_rates(todo, progress.done)), console)
            return progress
        finally:
            executor.close()


def _cell_run(record: dict[str, Any], group: str) -> CellRun:
    cell, metrics = record["cell"], record["metrics"]
    name = f"{cell['method']} {cell['density']:.4g} {cell['variant']} seed {cell['seed']}"
    options = {f"options/{key}": value for key, value in record["options"].items()}
    setting = " · ".join((cell["model"], cell["data"], cell["prune_at"]))
    return CellRun(
        key=record["key"].partition("-")[2],
        name=name,
        group=group,
        tags=tuple(str(cell[key]) for key in ("method", "model", "data", "variant")),
        config={**cell, "sparsity": 1 - cell["density"], "setting": setting, **options},
        curves=record["curves"],
        summary={**metrics, "status": record["status"], **record["made_by"]},
        layers=record["layers"],
    )


def _cells(experiment: Experiment, plan: Plan, failed: dict[str, str]) -> RunCells:
    rows = [
        {"cell": asdict(cell), "key": key, "ticket": plan.stages[key].inputs["ticket"], "reason": failed.get(key, "")}
        for cell, key in plan.cells.items()
    ]
    return RunCells(store=experiment.store, rows=rows, plan=plan_mark(experiment))


def _reasons(folder: Path, keys: Collection[str]) -> dict[str, str]:
    """Why cells have failed that are left alone now."""
    if not keys or not (folder / "cells.json").is_file():
        return {}
    return {row["key"]: row.get("reason", "") for row in read_cells(folder).rows if row["key"] in keys}


def _say_failures(plan: Plan, failed: dict[str, str], store: Store, console: Console) -> None:
    causes = {key: reason for key, reason in failed.items() if not reason.startswith("needs ")}
    for key, reason in causes.items():
        words = f"failed: {plan.stages[key].label}: {reason}\n  {store.location}/{failure_name(key)}"
        say(console, words, "red")
    if causes:
        say(console, f"{len(failed)} stages have failed; --retry-failed tries them again")
