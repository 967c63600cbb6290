"""A cell written into an open W&B run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def lean_settings(seconds: float) -> Any:
    """W&B's settings for runs that hold finished results.

    Args:
        seconds: How long W&B may take to begin or to end a run.
    """
    import wandb

    return wandb.Settings(
        console="off", silent=True, x_disable_stats=True, x_save_requirements=False,
        x_transaction_log_flush_interval=1, finish_timeout=seconds, init_timeout=min(seconds, 60.0),
    )  # fmt: skip


_STEPS = {"cell": ("epoch", ("train/*", "validation/*")), "comparison": ("density", ("comparison/*",))}


def write_cell(out: Any, cell: Mapping[str, Any]) -> None:
    """Writes a cell's curves, layers and summary.

    Args:
        out: A run of W&B.
        cell: The fields of :class:`prune_bench.tracking.CellRun`.
    """
    import wandb

    step, families = _STEPS[cell["job_type"]]
    out.define_metric(step)
    for family in families:
        out.define_metric(family, step_metric=step)
    # Steps are said: a run that was told in part takes no row twice.
    for place, row in enumerate(cell["curves"]):
        out.log(row, step=place)
    if cell["layers"]:
        columns = list(cell["layers"][0])
        table = wandb.Table(columns=columns, data=[[row[c] for c in columns] for row in cell["layers"]])
        out.log({"layers": table}, step=len(cell["curves"]))
    out.summary.update({name: value for name, value in cell["summary"].items() if _is_told(value)})


def _is_told(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))
