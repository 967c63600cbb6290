"""The tables that the charts draw from, made small enough to lie in the page."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from prune_bench.report.comparison import GROUP, by_variant
from prune_bench.report.statistics import pareto_front

_CURVE_POINTS = 60  # more cannot be seen at a page's width
_CURVES = {"train/loss": "train_loss", "validation/accuracy": "validation_accuracy"}


def chart_tables(
    results: pd.DataFrame, records: list[dict[str, Any]], summary: pd.DataFrame, checks: pd.DataFrame,
    pairs: pd.DataFrame,
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """All that is drawn, by name.

    Args:
        results: Of :func:`prune_bench.load_results`.
        records: Of :func:`prune_bench.report.results.read_records`, of all runs.
        summary: Of :func:`prune_bench.report.comparison.summarise`.
        checks: Of :func:`prune_bench.report.comparison.sanity_verdicts`.
        pairs: Of :func:`prune_bench.report.comparison.paired_differences`.

    Returns:
        ``summary`` (tickets), ``effective`` and ``collapsed`` (parts of it), ``dense``,
        ``seeds``, ``variants``, ``checks``, ``pairs`` (both ways round), ``layers``
        and ``curves`` (means over seeds of original tickets).
    """
    tickets = _with_fronts(summary[summary.density < 1])
    tickets = tickets.assign(low=tickets.low.clip(lower=0), high=tickets.high.clip(upper=100))
    wide = by_variant(results[results.density < 1])
    long = wide.melt(ignore_index=False, value_name="accuracy").dropna().reset_index()
    means = long.groupby([*GROUP, "variant"], sort=False).accuracy.mean().reset_index()
    seeds = long[long.variant == "original"]
    each = {group: _said(of) for group, of in seeds.groupby(GROUP, sort=False)}
    tickets = tickets.assign(each=[each.get(group, "") for group in zip(*(tickets[name] for name in GROUP))])
    layers, curves = _inner_tables(results, records)
    turned = pairs.rename(columns={"method": "against", "against": "method"})
    turned = turned.assign(difference=-turned.difference, low=-turned.high, high=-turned.low)
    return {
        "summary": tickets,
        "dense": summary[summary.density == 1][["setting", "accuracy", "low", "high"]],
        "effective": tickets[tickets.effective_density > 0],
        "collapsed": tickets[(tickets.effective_density > 0) & (tickets.collapsed > 0)],
        "seeds": seeds,
        "variants": means,
        "checks": checks,
        "pairs": pd.concat([pairs, turned], ignore_index=True),
        "layers": layers,
        "curves": curves,
    }


def columns(table: pd.DataFrame) -> dict[str, Any]:
    """A table as JSON that repeats no word: each column its values, those of words as indices into their levels."""
    return {str(name): _column(table[name]) for name in table}


def _column(values: pd.Series) -> Any:
    if pd.api.types.is_numeric_dtype(values):
        return [None if not math.isfinite(value) else float(f"{value:.5g}") for value in values.astype(float)]
    codes, levels = pd.factorize(values.astype(object))
    return {"levels": list(levels), "codes": codes.tolist()}


def _said(seeds: pd.DataFrame) -> str:
    return ", ".join(f"seed {seed}: {accuracy:.2f}" for seed, accuracy in zip(seeds.seed, seeds.accuracy))


def _with_fronts(tickets: pd.DataFrame) -> pd.DataFrame:
    tickets = tickets.assign(front_seconds=False, front_epochs=False)
    for group in tickets.groupby(["setting", "density"]).groups.values():
        accuracy = tickets.loc[group, "accuracy"].to_numpy()
        for cost, name in (("seconds", "front_seconds"), ("dense_epochs", "front_epochs")):
            tickets.loc[group, name] = pareto_front(tickets.loc[group, cost].to_numpy(), accuracy)
    return tickets


def _inner_tables(results: pd.DataFrame, records: list[dict[str, Any]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Layer densities and training curves of the original tickets, each a mean over seeds."""
    shown = results[(results.variant == "original") & (results.status == "done") & (results.density < 1)]
    where = {row.key: (row.setting, row.method, row.density) for row in shown.itertuples(index=False)}
    layers, curves, seen = [], [], set()
    for record in records:
        key = record["key"]
        if record["status"] != "done" or key in seen or key not in where:
            continue
        seen.add(key)
        for place, layer in enumerate(record["layers"]):
            layers.append((*where[key], place, layer["layer"], layer["density"]))
        thinned = _thinned(record["curves"])
        curves += [(*where[key], row["epoch"], *(row.get(name) for name in _CURVES)) for row in thinned]
    drawn = pd.DataFrame(curves, columns=[*GROUP, "epoch", *_CURVES.values()])
    told = pd.DataFrame(layers, columns=[*GROUP, "place", "layer", "kept"])
    return (
        told.groupby([*GROUP, "place", "layer"], sort=False).kept.mean().reset_index(),
        drawn.astype(dict.fromkeys(_CURVES.values(), float))
        .groupby([*GROUP, "epoch"], sort=False)
        .mean()
        .reset_index(),
    )


def _thinned(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    if len(curve) <= _CURVE_POINTS:
        return curve
    return [curve[place] for place in np.linspace(0, len(curve) - 1, _CURVE_POINTS).round().astype(int)]
