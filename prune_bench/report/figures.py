"""The report's charts as figures for papers: SVG and PNG, on white."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from prune_bench.report.page import Report
from prune_bench.report.page.charts import Chart, Spec

_PAPER = {"ink": "#1a1c1f", "soft": "#565c64", "faint": "#c9ced4"}
_WIDTH = 560  # pixels, of the plot
_CONFIG: Spec = {
    "background": "#fff",
    "axis": {"titleFontWeight": "normal", "gridColor": "#dde1e6"},
    "legend": {"columns": 5},
}


def write_figures(report: Report, folder: Path) -> list[str]:
    """Writes every chart, those of one density at the density that the answer is about.

    Args:
        report: Whose charts.
        folder: Made if it is not there.

    Returns:
        The figures' names, without suffix, in the order of the report.
    """
    import vl_convert

    folder.mkdir(parents=True, exist_ok=True)
    made: list[str] = []
    for one in report.answers:
        for chart in report.charts:
            rows = {name: _rows(report.tables, name, chart, one.setting, one.density) for name in chart.tables}
            if not rows[chart.tables[0]]:
                continue
            spec = _on_paper({**chart.spec, "width": _WIDTH, "datasets": rows, "config": _CONFIG})
            name = chart.name + (f"--{_slug(one.setting)}" if len(report.answers) > 1 else "")
            (folder / f"{name}.svg").write_text(vl_convert.vegalite_to_svg(spec), encoding="utf-8")
            (folder / f"{name}.png").write_bytes(vl_convert.vegalite_to_png(spec, scale=2))
            made.append(name)
    return made


def _rows(
    tables: dict[str, pd.DataFrame], name: str, chart: Chart, setting: str, density: float
) -> list[dict[str, Any]]:
    if name not in tables:
        return []
    table = tables[name]
    table = table[table.setting == setting]
    if chart.at_density:
        table = table[table.density == density]
    if chart.name.startswith("curves_"):
        table = table.dropna(subset=[chart.name.removeprefix("curves_")])
    return [
        {str(key): None if value != value else value for key, value in row.items()}
        for row in table.to_dict("records")
    ]


def _on_paper(spec: Any) -> Any:
    """The page's colours by name become those of a white page."""
    if isinstance(spec, dict):
        return {key: _on_paper(value) for key, value in spec.items()}
    if isinstance(spec, list):
        return [_on_paper(value) for value in spec]
    if isinstance(spec, str) and (found := re.fullmatch(r"var\(--(\w+)\)", spec)):
        return _PAPER[found[1]]
    return spec


def _slug(words: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", words).strip("_")
