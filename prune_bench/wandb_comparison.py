"""The comparison as W&B runs: accuracy against density with intervals, a line a method.

No panel of W&B draws an interval of final accuracies from single runs. So each method has three runs besides its
cells', one each for the mean and the two ends of the 95 % interval, with ``density`` as their step. Grouped by their
``line``, W&B draws their mean, which is the mean, and the area from the least to the largest, which is the interval.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import pandas as pd

from prune_bench.tracking import CellRun

BOUNDS = ("mean", "low", "high")


def comparison_runs(summary: pd.DataFrame, checks: pd.DataFrame, group: str, digest: str) -> list[CellRun]:
    """The runs of a comparison.

    Args:
        summary: Of :func:`prune_bench.report.comparison.summarise`.
        checks: Of :func:`prune_bench.report.comparison.sanity_verdicts`.
        group: The run's name.
        digest: Of the results. It is in the runs' ids, so that other results make other runs: W&B appends to a run's
            history and never changes it. Pages show the runs of their own digest alone.

    Returns:
        For each setting, method and bound a run whose history has a row a density, densest first: ``density``,
        ``comparison/accuracy`` in percent and ``comparison/loss/<variant>`` in points. A density without an interval
        is in the run of the mean alone.
    """
    runs = []
    several = summary.setting.nunique() > 1
    tickets = summary[(summary.density < 1) & summary.accuracy.notna()].sort_values("density", ascending=False)
    groups: Any = tickets.groupby(["setting", "method"], sort=False)
    for (setting, method), rows in groups:
        mine = checks[(checks.setting == setting) & (checks.method == method)]
        line = f"{method} ({setting})" if several else method
        for bound in BOUNDS:
            told = [_row(row, mine[mine.density == row["density"]], bound) for row in rows.to_dict("records")]
            curve = [row for row in told if len(row) > 2]
            if curve:
                what = {"setting": setting, "method": method, "line": line, "bound": bound}
                runs.append(_run(what, curve, group, digest))
    return runs


def _row(ticket: Any, checks: pd.DataFrame, bound: str) -> dict[str, float]:
    told = {"comparison/accuracy": ticket["accuracy" if bound == "mean" else bound]}
    told |= {
        f"comparison/loss/{check['variant']}": check["loss" if bound == "mean" else bound]
        for check in checks.to_dict("records")
    }
    known = {name: float(value) for name, value in told.items() if not math.isnan(value)}
    return {"density": ticket["density"], "sparsity": 1 - ticket["density"], **known}


def _run(what: dict[str, str], curve: list[dict[str, float]], group: str, digest: str) -> CellRun:
    return CellRun(
        key=hashlib.sha256("\n".join((group, digest, *what.values())).encode()).hexdigest()[:32],
        name=f"{what['line']}, {what['bound']}",
        group=group,
        tags=("comparison", what["method"]),
        config={**what, "results": digest},
        curves=curve,
        summary={},
        layers=[],
        job_type="comparison",
    )
