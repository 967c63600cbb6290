"""Published accuracies beside measured ones: the tables of the CTS authors (arXiv 2512.07142).

A published row stands beside a measured one only where model, data, training recipe, pruning point, method, options
and density all agree (:mod:`prune_bench.report.published_setting`); where something does not, the comparison says
what. ``reference/SOURCE.md`` says what is in the tables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from prune_bench.errors import PruneBenchError
from prune_bench.foreign import read_run_values
from prune_bench.recipes import CONCRETE
from prune_bench.report.comparison import summarise
from prune_bench.report.published_setting import option_differences, published_point, recipe_differences

_SEARCHES = {20: "short", 160: "long"}
_SAME_DENSITY = 0.01  # relative: the table has six digits after the point, the grid's steps are 20 %

NOTES = {
    "synflow": "the published code takes signs after absolute values and does not restore the weights it scores",
    "grasp": "the published table differentiates g1 . (g1 + g2), of halves of a batch, with g1 not held fixed: "
    "-w * H1 (2 g1 + g2)",
}
"""Known faults of the code that made the tables, by method: a disagreement there is a finding."""
WITHIN = "within both: the difference is no larger than the measured and than the published standard deviation"


@dataclass(frozen=True, kw_only=True)
class Match:
    """What the published tables have for a method of a run.

    Attributes:
        name: The published method, as ``method, control, search, at pruning point``; empty if there is none.
        rows: Its rows of :func:`published_table`.
        why: Why there is none; empty if there is.
        note: A known fault of the code behind them, and the precision measured in if it is a reduced one.
    """

    name: str
    rows: pd.DataFrame
    why: str = ""
    note: str = ""


@cache
def published_table() -> pd.DataFrame:
    """The published accuracies: ``model data method prune_at how density accuracy std``, accuracies in percent."""
    with (files("prune_bench.report") / "reference" / "accuracy.csv").open(encoding="utf-8") as file:
        table = pd.read_csv(file, keep_default_na=False)
    names = {"dataset": "data", "control_and_search": "how", "test_accuracy_mean": "accuracy"}
    return table.rename(columns=names | {"test_accuracy_std": "std"})


@cache
def headline_table() -> pd.DataFrame:
    """The paper's headline: ``model data density method accuracy minutes``; accuracy in percent."""
    with (files("prune_bench.report") / "reference" / "headline.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def compare(results: pd.DataFrame, records: list[list[dict[str, Any]]], runs: list[Path]) -> pd.DataFrame:
    """Measured beside published, wherever all that matters agrees.

    Args:
        results: Of :func:`prune_bench.load_results`, of these runs.
        records: Of :func:`prune_bench.report.results.read_records`, of each run.
        runs: Their folders.

    Returns:
        ``setting method density``, ``accuracy std seeds`` (measured, percent), ``published published_std source``,
        ``difference`` (points, measured minus published), ``within`` (see :data:`WITHIN`; "too few seeds" below two)
        and ``note``.
    """
    matches, summary, rows = find_matches(results, records, runs), summarise(results), []
    for row in summary.to_dict("records"):
        match = matches.get((row["setting"], row["method"]))
        found = _at(match.rows, row["density"]) if match and match.name else None
        if match is None or found is None or math.isnan(row["accuracy"]):
            continue
        difference = row["accuracy"] - found["accuracy"]
        rows.append(
            {
                **{name: row[name] for name in ("setting", "method", "density", "accuracy", "std", "seeds")},
                "published": found["accuracy"],
                "published_std": found["std"],
                "source": match.name,
                "difference": difference,
                "within": _within(difference, row["std"], found["std"]),
                "note": match.note,
            }
        )
    head = ["setting", "method", "density", "accuracy", "std", "seeds", "published", "published_std", "source",
            "difference", "within", "note"]  # fmt: skip
    return pd.DataFrame(rows, columns=head)


def overlay(results: pd.DataFrame, records: list[list[dict[str, Any]]], runs: list[Path]) -> pd.DataFrame:
    """Published rows to draw beside measured ones: ``setting method density accuracy std source``.

    Where a method matches, all its published densities are there.
    """
    head = ["setting", "method", "density", "accuracy", "std", "source"]
    parts = [
        match.rows.assign(setting=setting, method=method, source=match.name)[head]
        for (setting, method), match in find_matches(results, records, runs).items()
        if match.name
    ]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=head)
    return table[table.density < 1]


def find_matches(
    results: pd.DataFrame, records: list[list[dict[str, Any]]], runs: list[Path]
) -> dict[tuple[str, str], Match]:
    """For each (setting, method) what the published tables have, if they know its model and data at all."""
    said = {
        cell["key"]: (cell, run) for cells, run in zip(records, runs) for cell in cells if cell["status"] == "done"
    }
    known = set(zip(published_table().model, published_table().data))
    told = results[
        [key in said and (model, data) in known for key, model, data in zip(results.key, results.model, results.data)]
    ]
    experiments = {run: read_experiment(run) for run in runs}
    differences = {run: recipe_differences(experiment) for run, experiment in experiments.items()}
    matches: dict[tuple[str, str], Match] = {}
    for row in told.drop_duplicates(["setting", "method"]).to_dict("records"):
        record, run = said[row["key"]]
        match = _match(record, dict(experiments[run].get("train", {})))
        options = option_differences(record["method"], record["options"])
        why = "; ".join(filter(None, [differences[run], options, match.why]))
        matches[row["setting"], row["method"]] = Match(name="", rows=match.rows[:0], why=why) if why else match
    return matches


def read_experiment(run: Path) -> dict[str, Any]:
    """A run's experiment as plain values; empty if it is not there."""
    try:
        return read_run_values(run / "experiment.yaml")
    except PruneBenchError:
        return {}


def _match(record: dict[str, Any], train: dict[str, Any]) -> Match:
    """The published rows of a cell's method, if its recipe and options are those of the tables."""
    table, cell = published_table(), record["cell"]
    table = table[(table.model == cell["model"]) & (table.data == cell["data"])]
    method, how, why = _published_name(record)
    point, late = cell["prune_at"], ""
    if point == "rewind":
        point, late = published_point(record["method"], cell["model"], train.get("rewind_epoch"))
    if why or late:
        return Match(name="", rows=table[:0], why=why or late)
    density = table.density == 1 if record["method"] == "dense" else table.density < 1
    rows = table[(table.method == method) & (table.how == how) & (table.prune_at == point) & density]
    if rows.empty:
        return Match(name="", rows=rows, why=f"no published row for {method} {how} at {point}".replace("  ", " "))
    name = ", ".join(part for part in (method, *how.split(","), f"at {point}") if part)
    said = {train.get("precision", "float32"), record["options"].get("precision", "float32")} - {"float32"}
    reduced = [f"measured with passes in {' and '.join(sorted(said))}"] if said else []
    return Match(name=name, rows=rows, note="; ".join([*reduced, *filter(None, [NOTES.get(record["method"])])]))


def _published_name(record: dict[str, Any]) -> tuple[str, str, str]:
    """The published method, its control and search, and why there is none."""
    method, options = record["method"], record["options"]
    if method in CONCRETE:
        search = _SEARCHES.get(options["epochs"], "")
        why = "" if search else f"its search has {options['epochs']} epochs (published: 20 and 160)"
        if options["objective"] == "reverse_kl":
            why = "the published tables have forward_kl and not reverse_kl; the headline has it"
        return f"cts:{options['objective']}", f"{options['control']},{search}", why
    if method == "grasp" and options.get("by_magnitude"):
        return "grasp_magnitude", "", ""
    return {"magnitude": "magnitude_at_init", "dense": "magnitude_at_init"}.get(method, method), "", ""


def _at(rows: pd.DataFrame, density: float) -> dict[str, Any] | None:
    near = rows[(rows.density / density - 1).abs() < _SAME_DENSITY]
    return None if near.empty else {str(name): value for name, value in near.iloc[0].items()}


def _within(difference: float, measured: float, published: float) -> str:
    if math.isnan(measured):
        return "too few seeds"
    return "yes" if abs(difference) <= min(measured, published) else "no"
