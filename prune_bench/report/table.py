"""The comparison as a table: in the terminal, in Markdown, in LaTeX."""

from __future__ import annotations

import math

import pandas as pd
from rich.table import Table
from rich.text import Text

from prune_bench.report.comparison import sanity_verdicts, summarise
from prune_bench.untrusted import markdown_text, printable

_VARIANTS = ("layer_shuffle", "reinit", "invert")
MARKS = {"pass": "✓", "fail": "✗", "too few seeds": "?"}
"""How a table marks a sanity verdict."""
TIED = "†"
"""How a table marks a method whose cut fell among equal scores."""
_NOTABLE = 1e-3  # of the kept weights: in float32 a few scores are equal by chance
CAPTION = (
    "Accuracy: mean ± standard deviation over seeds, and the 95 % t interval of the mean. Sanity checks: change in "
    "points against the original ticket of the same seed; ✓ passes, ✗ fails, ? too few seeds to tell. Effective "
    "density counts kept weights on a path from input to output, – where that is not known; cost is that of finding "
    f"the ticket. {TIED}: the cut fell among equal scores, so that the order of weights decided and not the method."
)


def comparison_rows(results: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The summary as words: headings and rows, densest first, best method first within a density."""
    summary = summarise(results)
    checks = sanity_verdicts(results).set_index(["setting", "method", "density", "variant"]).verdict.to_dict()
    variants = [name for name in _VARIANTS if name in summary]
    several = summary.setting.nunique() > 1
    summary = summary.sort_values(["setting", "density", "accuracy"], ascending=[True, False, False])
    head = [*(["setting"] if several else []), "density", "method", "accuracy %", "95 % interval", *variants]
    head += ["effective", "search s", "search epochs"]
    rows = []
    for row in summary.to_dict("records"):
        lost = f" ({row['lost']} lost)" if row["lost"] else ""
        where = (row["setting"], row["method"], row["density"])
        rows.append(
            [
                *([row["setting"]] if several else []),
                f"{row['density']:.4g}",
                row["method"] + f" {TIED}" * (row["tied"] >= _NOTABLE),
                _with_spread(row["accuracy"], row["std"]) + lost,
                _interval(row["low"], row["high"]),
                *(_checked(row[variant], checks.get((*where, variant))) for variant in variants),
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
        table.add_column(name, justify="left" if name in ("method", "setting") else "right", no_wrap=True)
    last = None
    for row in rows:
        mark = row[: head.index("method")]
        if last not in (None, mark):
            table.add_section()
        last = mark
        table.add_row(*(Text(printable(cell)) for cell in row))  # a name in brackets is no markup
    return table


def markdown_table(results: pd.DataFrame) -> str:
    """The comparison as a Markdown table."""
    head, rows = comparison_rows(results)
    lines = [head, ["---" if name in ("method", "setting") else "---:" for name in head]]
    lines += [[markdown_text(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_LATEX = {TIED: r"$\dagger$", "\\": r"\textbackslash{}", "±": r"$\pm$", "–": "--"} | {
    "✓": r"$\checkmark$", "✗": r"$\times$"} | {
    mark: f"\\{mark}" for mark in "&%$#_{}"
} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "·": r"$\cdot$"}  # fmt: skip


def latex_table(results: pd.DataFrame) -> str:
    """The comparison as a LaTeX ``tabular`` in the style of booktabs; it needs ``booktabs`` and ``amssymb``."""
    head, rows = comparison_rows(results)
    columns = "".join("l" if name in ("method", "setting") else "r" for name in head)
    lines, at, last = [], head.index("method"), None
    for row in rows:
        if last not in (None, row[:at]):
            lines.append(r"\midrule")
        last = row[:at]
        lines.append(_latex_line(row))
    body = "\n".join(lines)
    return (
        f"% {_latex_line([CAPTION])[:-3]}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{_latex_line(head)}\n"
        f"\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}"
    )


def _latex_line(cells: list[str]) -> str:
    return " & ".join("".join(_LATEX.get(letter, letter) for letter in cell) for cell in cells) + r" \\"


def _number(value: float, how: str) -> str:
    return "–" if math.isnan(value) else format(value, how)


def _checked(change: float, verdict: str | None) -> str:
    return "–" if verdict is None or math.isnan(change) else f"{change:+.1f} {MARKS[verdict]}"


def _interval(low: float, high: float) -> str:
    return "–" if math.isnan(low) else f"{low:.1f} to {high:.1f}"


def _with_spread(mean: float, std: float) -> str:
    if math.isnan(mean):
        return "–"
    return f"{mean:.1f}" if math.isnan(std) else f"{mean:.1f} ± {std:.1f}"
