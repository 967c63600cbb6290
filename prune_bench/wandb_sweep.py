"""W&B sweeps whose agents compute an experiment's cells, for teams that schedule through W&B.

The grid's parameters are ``method``, ``density``, ``variant``, ``seed`` and ``prune_at``, if the cells are all their
combinations. They often are not (a dense network has one density, a random mask no shuffle), and W&B's grids know no
exceptions: then the one parameter ``cell`` lists the cells by name. Runs can be grouped by method or density either
way, because every run says those in its config.

An agent calls ``prune-bench run FILE`` for one cell. Agents find what others have done in the experiment's store, and
share what they are at through claims, as sweeps do.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from prune_bench.config import Experiment
from prune_bench.errors import PruneBenchError
from prune_bench.sweep.cells import CHOICES, Cell, cell_name
from prune_bench.sweep.sweep import cell_runs, run_sweep
from prune_bench.tracking import find_mode, has_key
from prune_bench.untrusted import say
from prune_bench.wandb_cell import lean_settings, write_cell


def sweep_config(experiment: Experiment, cells: Sequence[Cell], file: str, words: Sequence[str]) -> dict[str, Any]:
    """A W&B grid sweep, as ``wandb sweep`` reads it from YAML.

    Args:
        experiment: Names the sweep and its W&B project.
        cells: What to compute.
        file: The experiment file, as the agents find it.
        words: ``key=value`` words laid over it.
    """
    # An agent does one cell: workers of its own would only take time to start.
    command = ["${env}", "prune-bench", "run", file, "executor=inline", *words, "${args_no_hyphens}"]
    owner = {"entity": experiment.wandb.entity} if experiment.wandb.entity else {}
    return {
        "name": experiment.name,
        "project": experiment.wandb.project,
        **owner,
        "program": "prune-bench",
        "command": command,
        "method": "grid",
        "metric": {"name": "test/accuracy", "goal": "maximize"},
        "parameters": {name: {"values": values} for name, values in _parameters(cells).items()},
    }


def _parameters(cells: Sequence[Cell]) -> dict[str, list[Any]]:
    values = {name: list(dict.fromkeys(getattr(cell, name) for cell in cells)) for name in CHOICES}
    if math.prod(len(some) for some in values.values()) == len(cells):
        return values
    return {"cell": [cell_name(cell) for cell in cells]}


def register(config: dict[str, Any]) -> str:
    """Makes the sweep known to W&B.

    Returns:
        The command that starts an agent.

    Raises:
        PruneBenchError: There is no API key, or W&B did not take the sweep.
    """
    if not has_key():
        raise PruneBenchError(
            "W&B knows no API key here: run `wandb login`, or set WANDB_API_KEY; --print needs no account"
        )
    import wandb

    entity, project = config.get("entity"), config["project"]
    try:
        number = wandb.sweep(config, entity=entity, project=project)
    except Exception as error:  # wandb's errors share no base
        raise PruneBenchError(f"W&B did not take the sweep: {error}") from error
    return f"wandb agent {'/'.join(filter(None, (entity, project, number)))}"


def is_agents() -> bool:
    """Whether a W&B agent started this process."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def run_for_agent(experiment: Experiment, cell: Cell, console: Console) -> int:
    """Computes a cell, or finds it done, and writes it into the run that the agent has named.

    Trouble with W&B costs the agent's run, never the cell.

    Returns:
        0 if the cell has a result, else 1.
    """
    run, code = _open_run(experiment, console), 1
    try:
        code = run_sweep(experiment, console, only=[cell])
        if run is not None:
            _tell(run, experiment, cell, console)
    finally:
        if run is not None:
            run.finish(exit_code=code)
    return code


def _open_run(experiment: Experiment, console: Console) -> Any:
    """The agent's run; open from the start, so that W&B shows the cell at work."""
    settings, folder = experiment.wandb, experiment.folder.resolve() / "wandb"
    if (mode := find_mode(settings)) == "disabled":
        return None
    import wandb

    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Id, project and entity are the sweep's: W&B takes them from the environment that the agent has set.
        return wandb.init(mode=mode, group=experiment.name, dir=folder, settings=lean_settings(settings.patience))  # type: ignore[arg-type]
    except Exception as error:  # wandb's errors share no base
        say(console, f"no W&B run: {error}", "yellow")
        return None


def _tell(run: Any, experiment: Experiment, cell: Cell, console: Console) -> None:
    wanted = asdict(cell).items()
    try:
        for told in cell_runs(experiment.folder):
            if wanted <= told.config.items():
                run.name, run.tags = told.name, told.tags
                run.config.update(told.config, allow_val_change=True)
                write_cell(run, asdict(told))
    except Exception as error:  # the result is in the store, whatever W&B makes of it
        say(console, f"not told to W&B: {error}", "yellow")
