"""Reports from runs: ``report.html``, and for papers ``report.md``, figures and the table in LaTeX."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import prune_bench
from prune_bench.report.comparison import mean_ranks, paired_differences, sanity_verdicts, summarise
from prune_bench.report.figures import write_figures
from prune_bench.report.page import Report, render_page
from prune_bench.report.page.charts import make_charts
from prune_bench.report.page.rows import chart_tables
from prune_bench.report.page.words import answer
from prune_bench.report.published import find_matches, overlay
from prune_bench.report.results import load_results, read_records
from prune_bench.report.statistics import RULE
from prune_bench.report.table import CAPTION, latex_table, markdown_table
from prune_bench.sweep.run_folder import read_history
from prune_bench.untrusted import markdown_text, printable, without_user

PAGE = "report.html"


def make_report(runs: Sequence[str | Path], say: Callable[[str], None] | None = None) -> Report:
    """Reads runs and compares what is in them.

    Args:
        runs: Sweeps' folders.
        say: Told of each damaged artifact; None to log it.

    Raises:
        PruneBenchError: A folder is no run, or two have the same name.
    """
    records = [read_records(run, say) for run in runs]
    results = load_results(*runs, records=records)
    summary, checks, pairs = summarise(results), sanity_verdicts(results), paired_differences(results)
    folders = [Path(run) for run in runs]
    tables = chart_tables(results, [cell for cells in records for cell in cells], summary, checks, pairs)
    tables["published"] = overlay(results, records, folders)
    methods = list(dict.fromkeys(summary[summary.density < 1].method))
    return Report(
        title=" + ".join(Path(run).resolve().name for run in runs),
        digest=results_digest(results),
        answers=[answer(setting, summary, checks, pairs) for setting in dict.fromkeys(summary.setting)],
        results=results,
        summary=summary,
        checks=checks,
        ranks=mean_ranks(summary),
        tables=tables,
        charts=make_charts(methods),
        made=[pair for run in runs for pair in _made(Path(run), results)],
        experiments=[(Path(run).resolve().name, _experiment(Path(run))) for run in runs],
        notes=_notes(results, records, folders, tables["published"]),
    )


def write_page(report: Report, folder: Path) -> Path:
    """Writes ``report.html`` into a folder and returns its path."""
    path = folder / PAGE
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(render_page(report), encoding="utf-8")
    return path


def has_page(folder: Path, results: pd.DataFrame) -> bool:
    """Whether the folder's ``report.html`` tells of these very results."""
    try:
        with open(folder / PAGE, encoding="utf-8") as file:
            return f'content="{results_digest(results)}"' in file.read(1000)
    except OSError:
        return False


def results_digest(results: pd.DataFrame) -> str:
    """A mark of what a report is made of: the results, and this package's version."""
    text = prune_bench.__version__ + results.to_csv(index=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_paper(report: Report, folder: Path, *, latex: bool = False) -> list[Path]:
    """Writes ``report.md`` and ``figures/`` (SVG and PNG), and ``table.tex`` if asked for.

    Returns:
        What was written, figures as their folder.
    """
    figures = write_figures(report, folder / "figures")
    written = [folder / "report.md", folder / "figures"]
    written[0].write_text(_markdown(report, figures), encoding="utf-8")
    if latex:
        written.append(folder / "table.tex")
        written[-1].write_text(latex_table(report.results) + "\n", encoding="utf-8")
    return written


def _markdown(report: Report, figures: list[str]) -> str:
    text = markdown_text  # names, reasons and commands are words, whatever is in them
    parts = [f"# {text(report.title)}"]
    for one in report.answers:
        parts += [f"## {text(one.setting)}", text(one.headline), *(f"> {text(note)}" for note in report.notes)]
        parts.append("\n".join(f"- **{text(method)}**: {text(sentence)}" for method, sentence in one.methods))
    parts += ["## Summary", markdown_table(report.results), CAPTION, RULE, "## Figures"]
    captions = {chart.name: chart for chart in report.charts}
    for name in figures:
        chart = captions[name.partition("--")[0]]
        parts.append(f"![{chart.title}](figures/{name}.svg)\n\n{chart.caption}")
    parts.append("## How it was made")
    parts.append("\n".join(f"- {text(word)}: {text(what)}" for word, what in report.made))
    return "\n\n".join(part for part in parts if part) + "\n"


def _made(run: Path, results: pd.DataFrame) -> list[tuple[str, str]]:
    """Versions, commit and command; seconds of work; devices."""
    name = run.resolve().name
    mine = results[results.run == run.name]
    said: list[tuple[str, str]] = []
    for column, word in (("torch", "torch"), ("python", "Python"), ("device", "device"), ("lanes", "packed by")):
        if column in mine and len(values := sorted({str(value) for value in mine[column].dropna()})):
            said.append((word, ", ".join(values)))
    for sweep in read_history(run)[-3:]:
        commit = sweep["commit"] or "no git checkout"
        said.append((f"sweep of {sweep['when']}", f"{sweep['command']} (prune_bench {sweep['version']}, {commit})"))
    said.append(("to run it again", f"prune-bench sweep {run / 'experiment.yaml'}"))
    return [(f"{name}: {word}", what) for word, what in said]


def _notes(results: pd.DataFrame, records: list[Any], runs: list[Path], published: pd.DataFrame) -> list[str]:
    """What published accuracies stand beside these, or why none do."""
    matches = find_matches(results, records, runs)
    notes = [f"{match.name}: {match.note}" for match in matches.values() if match.note]
    if not published.empty:
        others = [f"Not beside a published row: {method}: {m.why}." for (_, method), m in matches.items() if m.why]
        return [
            f"Published accuracies (arXiv 2512.07142) are drawn for {published.method.nunique()} methods.",
            *notes,
            *others,
        ]
    whys = (match.why.split("; ")[0] for match in matches.values())
    reasons = dict.fromkeys(why for why in whys if why.startswith("the recipe"))
    return [f"There are published accuracies for this model and data, but {reason}." for reason in reasons]


def _experiment(run: Path) -> str:
    try:
        return printable(without_user((run / "experiment.yaml").read_text(errors="backslashreplace")))
    except OSError:
        return "not kept"
