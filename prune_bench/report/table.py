"""The comparison as a table in the terminal and in Markdown."""

from __future__ import annotations

import math

import pandas as pd
from rich.table import Table

_GROUP = ["prune_at", "method", "density"]


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Method x density: accuracy over seeds, sanity differences, cost.

    Args:
        results: As :func:`prune_bench.load_results` gives them.

    Returns:
        A row for each pruning point, method and density with ``accuracy`` and ``std`` (sample, NaN below two
        seeds) in percent, ``seeds``, for each variant its mean paired difference from the original in points,
        ``effective_density``, ``seconds`` and ``dense_epochs`` of the search. A cell without an accuracy (diverged,
        failed) counts in ``lost``.
    """
    rows = []
    for group, cells in results.groupby(_GROUP, sort=False):
        original = cells[cells.variant == "original"].set_index("seed")
        accuracy = 100 * _column(original, "test/accuracy")
        row = dict(zip(_GROUP, group)) | {
            "accuracy": accuracy.mean(),
            "std": accuracy.std(),
            "seeds": int(accuracy.notna().sum()),
            "lost": int(_column(cells, "test/accuracy").isna().sum()),
            "effective_density": _column(original, "effective_density").mean(),
            "seconds": _column(original, "search/seconds").mean(),
            "dense_epochs": _column(original, "search/dense_epochs").mean(),
        }
        for variant, altered in cells[cells.variant != "original"].groupby("variant", sort=False):
            changed = 100 * _column(altered.set_index("seed"), "test/accuracy")
            row[str(variant)] = (changed - accuracy).mean()
        rows.append(row)
    return pd.DataFrame(rows)


def comparison_rows(results: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The summary as words: headings and rows, densest first, best method first within a density."""
    summary = summarise(results)
    order = [column for column in ("layer_shuffle", "reinit", "invert") if column in summary]
    several = summary.prune_at.nunique() > 1
    summary = summary.sort_values(["prune_at", "density", "accuracy"], ascending=[True, False, False])
    head = [*(["pruned at"] if several else []), "density", "method", "accuracy %", *order]
    head += ["effective", "search s", "search epochs"]
    rows = []
    for row in summary.to_dict("records"):
        lost = f" ({row['lost']} lost)" if row["lost"] else ""
        rows.append(
            [
                *([row["prune_at"]] if several else []),
                f"{row['density']:.4g}",
                row["method"],
                _with_spread(row["accuracy"], row["std"]) + lost,
                *(_number(row[variant], "+.1f") for variant in order),
                _number(row["effective_density"], ".4f"),
                _number(row["seconds"], ".1f"),
                _number(row["dense_epochs"], ".1f"),
            ]
        )
    return head, rows


def rich_table(results: pd.DataFrame) -> Table:
    """The comparison for a terminal."""
    head, rows = comparison_rows(results)
    seeds = results.seed.nunique()
    table = Table(title=f"Test accuracy, mean ± std over {seeds} seed{'s' * (seeds != 1)}", title_justify="left")
    for name in head:
        table.add_column(name, justify="left" if name in ("method", "pruned at") else "right", no_wrap=True)
    last = None
    for row in rows:
        mark = row[: head.index("method")]
        if last not in (None, mark):
            table.add_section()
        last = mark
        table.add_row(*row)
    return table


def markdown_table(results: pd.DataFrame) -> str:
    """The comparison as a Markdown table."""
    head, rows = comparison_rows(results)
    lines = [head, ["---" if name == "method" else "---:" for name in head], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    return frame[name] if name in frame else pd.Series(math.nan, index=frame.index)


def _number(value: float, how: str) -> str:
    return "–" if math.isnan(value) else format(value, how)


def _with_spread(mean: float, std: float) -> str:
    if math.isnan(mean):
        return "–"
    return f"{mean:.1f}" if math.isnan(std) else f"{mean:.1f} ± {std:.1f}"
