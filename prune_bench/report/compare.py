"""``prune-bench compare``: measured, published, and what lies between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prune_bench.report.published import WITHIN, compare, find_matches, headline_table, read_experiment
from prune_bench.report.published_setting import LEFT_OVER, option_differences, recipe_differences
from prune_bench.report.results import load_results, read_records
from prune_bench.untrusted import markdown_text, printable

_HEAD = ["method", "density", "measured %", "published %", "difference", "within both", "published as", "note"]


def compare_run(run: Path) -> tuple[pd.DataFrame, dict[str, str], pd.DataFrame]:
    """A run beside the published tables.

    Args:
        run: The sweep's folder.

    Returns:
        The table of :func:`prune_bench.report.published.compare`; for each method without a published row, as
        ``setting: method``, why; and the paper's headline with what was measured beside it.
    """
    records = [read_records(run)]
    results = load_results(run, records=records)
    matches = find_matches(results, records, [run])
    reasons = {f"{setting}: {method}": match.why for (setting, method), match in matches.items() if match.why}
    return compare(results, records, [run]), reasons, _headline(results, records[0], run)


def _headline(results: pd.DataFrame, records: list[dict[str, Any]], run: Path) -> pd.DataFrame:
    """The headline's rows for which this run has a cell, and what differs; minutes are of search and training."""
    recipe, said = recipe_differences(read_experiment(run)), {cell["key"]: cell for cell in records}
    rows = []
    for row in headline_table().to_dict("records"):
        near = (results.density / row["density"] - 1).abs() < 0.01
        same = (results.model == row["model"]) & (results.data == row["data"]) & (results.method == row["method"])
        for setting, cells in results[near & same & (results.variant == "original")].groupby("setting"):
            seconds = cells["search/seconds"] + cells["train/seconds"]
            measured = {"setting": setting, "measured": 100 * cells["test/accuracy"].mean()}
            cell = said[cells["key"].iloc[0]]
            options = option_differences(cell.get("method", ""), cell.get("options", {}), headline=True)
            measured |= {
                "measured_minutes": seconds.mean() / 60,
                "differs": "; ".join(filter(None, [recipe, options])),
            }
            rows.append(row | measured | {"seeds": len(cells)})
    return pd.DataFrame(rows)


def show_comparison(run: Path, console: Console) -> None:
    """Prints it."""
    table, reasons, headline = compare_run(run)
    for setting, rows in table.groupby("setting", sort=False):
        console.print(_rich_table(str(setting), rows))
    if not table.empty:
        console.print(f"{WITHIN}; published over three seeds, arXiv 2512.07142", style="dim", highlight=False)
        console.print(LEFT_OVER, style="dim", highlight=False)
    for row in headline.to_dict("records"):
        console.print(
            f"the paper's headline at density {row['density']:.4f}: {row['method']} {row['accuracy']} % in "
            f"{row['minutes']} min; here {row['setting']} {row['measured']:.1f} % in "
            f"{row['measured_minutes']:.1f} min ({row['seeds']} seeds; minutes are of this machine)"
            + (f"; not comparable: {row['differs']}" if row["differs"] else ""),
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
    for method, why in reasons.items():
        console.print(f"not compared: {method}: {why}", highlight=False, markup=False, soft_wrap=True)
    if table.empty and not reasons:
        words = "nothing to compare: the published tables are of resnet20 and vgg16 on cifar10"
        console.print(words, highlight=False)


def _rich_table(setting: str, rows: pd.DataFrame) -> Table:
    table = Table(title=Text(setting), title_justify="left")
    for name in _HEAD:
        right = name in ("density", "measured %", "published %", "difference")
        table.add_column(name, justify="right" if right else "left")
    for row in comparison_cells(rows):
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def comparison_cells(table: pd.DataFrame) -> list[list[str]]:
    """The comparison as words, a list a row, in the order of the printed table."""
    return [
        [
            row["method"],
            f"{row['density']:.4g}",
            f"{row['accuracy']:.2f} ± {row['std']:.2f} ({row['seeds']})".replace("± nan ", ""),
            f"{row['published']:.2f} ± {row['published_std']:.2f}",
            f"{row['difference']:+.2f}",
            row["within"],
            row["source"],
            row["note"],
        ]
        for row in table.sort_values(["method", "density"], ascending=[True, False]).to_dict("records")
    ]


def markdown_comparison(table: pd.DataFrame) -> str:
    """The comparison as a Markdown table."""
    lines = [_HEAD, ["---"] * len(_HEAD), *comparison_cells(table)]
    return "\n".join(f"| {' | '.join(map(markdown_text, line))} |" for line in lines)
