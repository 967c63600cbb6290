"""The comparison as a table: the same words in the terminal, in Markdown and in LaTeX; no name is markup."""

import io
import re

import pytest
from rich.console import Console

from prune_bench.report.table import comparison_rows, latex_table, markdown_table, rich_table
from tests.report.test_comparison import cells, table

EVIL = "a_b & [red]x[/red] | 50% {c}"


@pytest.fixture
def results():
    return table(
        cells("dense", 1.0, [95, 96, None]),
        cells("snip", 0.1, [80, 90, 85]),
        cells("snip", 0.1, [70, 60, 65], "layer_shuffle"),
        cells(EVIL, 0.1, [99, 99, 99]),
    )


def test_densest_first_and_within_a_density_the_best_first(results):
    head, rows = comparison_rows(results)
    assert [row[head.index("method")] for row in rows] == ["dense", EVIL, "snip"]


def test_a_row_in_words(results):
    head, rows = comparison_rows(results)
    snip = dict(zip(head, rows[2]))
    assert snip["accuracy %"] == "85.0 ± 5.0"
    assert snip["95 % interval"] == "72.6 to 97.4"  # 85 ± 4.3027 * 5 / sqrt(3)
    assert snip["layer_shuffle"] == "-20.0 ?"  # -10, -30, -20: the interval reaches beyond 0
    assert dict(zip(head, rows[0]))["accuracy %"] == "95.5 ± 0.7 (1 lost)"
    assert dict(zip(head, rows[1]))["layer_shuffle"] == "–"


def test_several_settings_are_told_apart(results):
    other = results.assign(setting="other")
    head, rows = comparison_rows(table(results.to_dict("records"), other.to_dict("records")))
    assert head[0] == "setting"
    assert len(rows) == 6


def test_the_terminal_takes_no_name_for_markup(results):
    out = io.StringIO()
    Console(file=out, width=200).print(rich_table(results))
    assert EVIL in out.getvalue()


def test_markdown_keeps_its_columns_whatever_a_name_holds(results):
    lines = markdown_table(results).splitlines()
    assert len(lines) == 2 + 3
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_latex_escapes_what_latex_would_read(results):
    text = latex_table(results)
    assert r"a\_b \& [red]x[/red] | 50\% \{c\}" in text
    assert "±" not in text and "–" not in text
    body = text[text.index(r"\begin") :]
    columns = len(re.search(r"\{tabular\}\{(\w+)\}", body)[1])
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {columns - 1}
