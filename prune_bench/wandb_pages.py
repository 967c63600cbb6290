"""A comparison in Weights & Biases: its cells, a workspace to look around in, and a report to be read.

Run again, the same workspace and report are brought to the same content: their names follow from the run's, and the
ids that W&B gave them are kept in ``wandb/pages.json`` beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from prune_bench.config import Wandb, load_experiment
from prune_bench.config_checks import check_wandb_name
from prune_bench.errors import ConfigError, PruneBenchError
from prune_bench.report.page import Report
from prune_bench.report.statistics import RULE
from prune_bench.report.table import CAPTION, markdown_table
from prune_bench.tracking import CellRun, sync
from prune_bench.untrusted import parse_json, read_as, say
from prune_bench.wandb_comparison import comparison_runs

_PAGES = TypeAdapter(dict[str, dict[str, str]])


def publish(report: Report, runs: Sequence[Path], target: str, console: Console) -> int:
    """Sends a report's cells and comparison to W&B and makes workspace and report there.

    Args:
        report: Of these runs.
        runs: Their folders.
        target: ``entity/project``.
        console: Where to print.

    Returns:
        0, or 1 if some cells could not be sent.

    Raises:
        PruneBenchError: The target is no ``entity/project``, there is no API key, or wandb-workspaces is missing.
    """
    entity, _, project = target.partition("/")
    if not entity or not project or "/" in project:
        raise ConfigError("--wandb", target, "is not of the form ENTITY/PROJECT")
    check_wandb_name("--wandb", entity)
    check_wandb_name("--wandb", project)
    _need_workspaces()
    from prune_bench.sweep.sweep import cell_runs

    settings = Wandb(
        mode="online",
        project=project,
        entity=entity,
        patience=load_experiment(runs[0] / "experiment.yaml").wandb.patience,
    )
    told = [cell for run in runs for cell in cell_runs(run)]
    told += comparison_runs(report.summary, report.checks, report.title, report.digest)
    unsent = send(told, settings, runs[0], console)
    groups = [*dict.fromkeys([*(run.resolve().name for run in runs), report.title])]
    try:
        workspace, page = _save(report, groups, entity, project, _Kept(runs[0], target))
    except Exception as error:  # whatever W&B answers, the cells are there
        raise PruneBenchError(f"W&B did not take the workspace or the report: {error}") from error
    say(console, f"workspace: {workspace}\nreport: {page}")
    return unsent


def _save(report: Report, groups: list[str], entity: str, project: str, kept: _Kept) -> tuple[str, str]:
    workspace = make_workspace(report, groups, entity, project)
    workspace._internal_id = kept.id("workspace")
    workspace.save()
    kept.write(workspace=workspace._internal_id)
    page = make_report_page(report, groups, entity, project)
    page.id = kept.id("report")
    page.save()
    kept.write(report=page.id)
    return workspace.url, page.url


def send(runs: list[CellRun], settings: Wandb, folder: Path, console: Console, *, again: bool = False) -> int:
    """:func:`prune_bench.tracking.sync` with a progress bar.

    Returns:
        0 if W&B holds all, else 1.
    """
    bar = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*bar, console=console, transient=True) as progress:
        task = progress.add_task("sending to W&B", total=len(runs))
        unsent = sync(
            runs, settings, folder, again=again,
            watch=lambda left, total: progress.update(task, completed=total - left),
        )  # fmt: skip
    if unsent:
        log = folder / "wandb" / "mirror.log"
        say(console, f"{unsent} runs could not be sent: see {log}", "yellow")
        return 1
    say(console, f"W&B holds all {len(runs)} runs")
    return 0


def make_panels(report: Report) -> dict[str, list[Any]]:
    """The panels, by section, with ids that follow from what they show."""
    import wandb_workspaces.reports.v2 as wr

    variants = list(dict.fromkeys(report.checks.variant))
    sections = {
        "Accuracy against sparsity": [
            _interval("comparison/accuracy", "Accuracy against density: mean and 95 % interval", "accuracy, %"),
        ],
        "Sanity checks": [
            _interval(f"comparison/loss/{variant}", f"Accuracy lost by {variant}, with 95 % interval", "points")
            for variant in variants
        ],
        "Cost": [
            _scatter("search/dense_epochs", "Accuracy against cost in dense epochs"),
            _scatter("search/seconds", "Accuracy against cost in seconds"),
        ],
        "Cells": [
            wr.ParallelCoordinatesPlot(
                title="Density, method, accuracy",
                columns=[
                    wr.ParallelCoordinatesPlotColumn(metric=wr.Config("method")),
                    wr.ParallelCoordinatesPlotColumn(metric=wr.Config("density"), log=True),
                    wr.ParallelCoordinatesPlotColumn(metric=wr.Config("variant")),
                    wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric("effective_density"), log=True),
                    wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric("test/accuracy")),
                ],
            ),
            wr.LinePlot(title="Training loss", x="epoch", y=["train/loss"], log_y=True, groupby=wr.Config("method")),
            wr.RunComparer(diff_only="split"),
        ],
    }  # fmt: skip
    for section, panels in sections.items():
        for place, panel in enumerate(panels):
            panel._id = _name(report.title, section, str(place))
    return {section: panels for section, panels in sections.items() if panels}


def make_workspace(report: Report, groups: list[str], entity: str, project: str) -> Any:
    """The workspace: the run's cells grouped by method, and all panels.

    Args:
        report: What to show.
        groups: W&B groups of its cells and of its comparison.
        entity: Where to.
        project: Where to.
    """
    import wandb_workspaces.workspaces as ws

    workspace = ws.Workspace(
        entity=entity,
        project=project,
        name=f"prune_bench {report.title}",
        sections=[
            ws.Section(
                name=name, panels=panels, is_open=True, layout_settings=ws.SectionLayoutSettings(columns=2, rows=2)
            )
            for name, panels in make_panels(report).items()
        ],
        runset_settings=ws.RunsetSettings(
            filters=f"({_cells(groups)}) or ({_comparison(report)})",
            groupby=[ws.Config("method")],
            pinned_columns=[
                "run:displayName",
                "summary:test/accuracy",
                "summary:effective_density",
                "summary:status",
            ],
        ),
    )
    workspace._internal_name = f"nw-{_name(report.title, 'workspace')[:11]}-v"
    return workspace


def make_report_page(report: Report, groups: list[str], entity: str, project: str) -> Any:
    """The report: the answer, the summary table, and all panels.

    Args:
        report: What to show.
        groups: W&B groups of its cells and of its comparison.
        entity: Where to; empty to look at the specification without a server.
        project: Where to; as ``entity``.
    """
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [wr.H1("The answer")]
    for one in report.answers:
        blocks += [wr.H2(one.setting), wr.P(one.headline)]
        blocks.append(wr.UnorderedList(items=[f"{method}: {sentence}" for method, sentence in one.methods] or ["–"]))
    blocks += [wr.H1("Summary"), wr.MarkdownBlock(text=markdown_table(report.results)), wr.P(CAPTION), wr.P(RULE)]
    for section, panels in make_panels(report).items():
        filters = _comparison(report) if section in ("Accuracy against sparsity", "Sanity checks") else _cells(groups)
        runset = wr.Runset(entity=entity, project=project, name=section, filters=filters, groupby=["config.method"])
        runset._id = _name(report.title, section, "runset")
        blocks += [wr.H1(section), wr.PanelGrid(runsets=[runset], panels=panels)]
    blocks += [wr.H1("How it was made"), wr.UnorderedList(items=[f"{word}: {what}" for word, what in report.made])]
    title = f"prune_bench {report.title}"
    return wr.Report(
        entity=entity, project=project, title=title, description="Pruning methods compared.", blocks=blocks
    )


def _interval(metric: str, title: str, unit: str) -> Any:
    import wandb_workspaces.reports.v2 as wr

    return wr.LinePlot(
        title=title, x="density", y=[metric], log_x=True, title_x="density (log scale)", title_y=unit,
        groupby=wr.Config("line"), groupby_aggfunc="mean", groupby_rangefunc="minmax", max_runs_to_show=100,
    )  # fmt: skip


def _scatter(cost: str, title: str) -> Any:
    import wandb_workspaces.reports.v2 as wr

    return wr.ScatterPlot(title=title, x=wr.SummaryMetric(cost), y=wr.SummaryMetric("test/accuracy"), log_x=True)


def _cells(groups: list[str]) -> str:
    return f"Group in {groups!r} and JobType == 'cell'"


def _comparison(report: Report) -> str:
    return f"Config('results') == '{report.digest}'"


def _name(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]


def _need_workspaces() -> None:
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError:
        raise PruneBenchError("--wandb needs the extra: pip install 'prune-bench[workspaces]'") from None


class _Kept:
    """The ids that W&B gave to a run's pages, by target."""

    def __init__(self, folder: Path, target: str) -> None:
        self._path, self._target = folder / "wandb" / "pages.json", target
        try:
            self._all = read_as(_PAGES, parse_json(self._path.read_bytes()))
        except (OSError, ValueError):
            self._all = {}

    def id(self, page: str) -> str:
        """Empty if the page was never made."""
        return self._all.get(self._target, {}).get(page, "")

    def write(self, **ids: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._all[self._target] = self._all.get(self._target, {}) | ids
        self._path.write_text(json.dumps(self._all))
