"""The page: answers, tables and charts into one HTML file that needs nothing beside it."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from prune_bench.report.page.charts import COLOURS, SHAPES, Chart
from prune_bench.report.page.rows import columns
from prune_bench.report.page.words import VARIANTS, Answer, sparsity
from prune_bench.report.statistics import RULE
from prune_bench.report.table import CAPTION, MARKS


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a report says, in whatever form it is written.

    Attributes:
        title: The runs' names.
        digest: Of the results, so that a report that is up to date need not be written again.
        answers: One a setting.
        results: Of :func:`prune_bench.load_results`.
        summary: Of :func:`prune_bench.report.comparison.summarise`.
        checks: Of :func:`prune_bench.report.comparison.sanity_verdicts`.
        ranks: Of :func:`prune_bench.report.comparison.mean_ranks`.
        tables: What the charts draw, of :func:`prune_bench.report.page.rows.chart_tables`.
        charts: In the order of the page.
        made: How the results were made: pairs of a word and what it was.
        experiments: Each run's name and experiment file.
        notes: Sentences a reader should know.
    """

    title: str
    digest: str
    answers: list[Answer]
    results: pd.DataFrame
    summary: pd.DataFrame
    checks: pd.DataFrame
    ranks: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    charts: list[Chart]
    made: list[tuple[str, str]]
    experiments: list[tuple[str, str]]
    notes: list[str]


def render_page(report: Report) -> str:
    """The report as one HTML file; every name in it is escaped.

    Args:
        report: What to say.
    """
    environment = Environment(
        loader=PackageLoader("prune_bench.report.page", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"sparsity": sparsity, "density": lambda density: f"{density:.5g}"}
    home = files("prune_bench.report.page")
    return environment.get_template("page.html.jinja").render(
        report=report,
        methods=_methods(report.summary),
        settings=list(dict.fromkeys(report.summary.setting)),
        densities=sorted(report.summary[report.summary.density < 1].density.unique(), reverse=True),
        variants=list(dict.fromkeys(report.checks.variant)),
        has_boots=bool(report.summary.boot_low.notna().any()),
        summary_rows=_summary_rows(report),
        failures=_failures(report.results),
        words={"variants": VARIANTS, "marks": MARKS, "rule": RULE, "caption": CAPTION},
        style=(home / "page.css").read_text(),
        script=(home / "page.js").read_text(),
        library=_library(),
        data=_json({name: columns(table) for name, table in report.tables.items()}),
        charts=_json([asdict(chart) for chart in report.charts]),
    )


@functools.cache
def _library() -> str:
    """The scripts that draw the charts. Bundling them takes more than a second, and gives the same every time."""
    import vl_convert

    return _inline(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _methods(summary: pd.DataFrame) -> list[dict[str, Any]]:
    names = list(dict.fromkeys(summary[summary.density < 1].method))
    return [
        {"name": name, "colour": COLOURS[place % len(COLOURS)], "shape": SHAPES[place % len(SHAPES)]}
        for place, name in enumerate(names)
    ]


def _summary_rows(report: Report) -> list[dict[str, Any]]:
    verdicts = report.checks.set_index(["setting", "method", "density", "variant"]).verdict.to_dict()
    rows = report.summary.sort_values(["density", "accuracy"], ascending=False).to_dict("records")
    for row in rows:
        where = (row["setting"], row["method"], row["density"])
        row["verdicts"] = {name: verdicts.get((*where, name)) for name in dict.fromkeys(report.checks.variant)}
    return [{str(name): None if value != value else value for name, value in row.items()} for row in rows]


def _failures(results: pd.DataFrame) -> list[dict[str, Any]]:
    lost = results[results.status != "done"]
    named = ["setting", "method", "density", "variant", "status", "reason"]
    grouped = lost.groupby(named, sort=False, dropna=False).seed.agg(list).reset_index()
    return [{str(name): value for name, value in row.items()} for row in grouped.to_dict("records")]


def _json(value: Any) -> str:
    """JSON that may stand in a script element: nothing in it can end the element or begin a comment."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c").replace("\u2028", "\\u2028")


def _inline(script: str) -> str:
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
