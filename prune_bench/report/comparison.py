"""The comparison's tables: what the results of all seeds come to, method by method and density by density."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from prune_bench.report.statistics import (
    Crossing,
    bootstrap_interval,
    crossing,
    half_width,
    holm,
    paired_test,
    t_interval,
    verdict,
)

GROUP = ["setting", "method", "density"]
"""What seeds are averaged within."""


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """The summary table: a row a setting, method and density.

    Args:
        results: As :func:`prune_bench.load_results` gives them.

    Returns:
        ``setting method density``; of the original tickets ``accuracy`` (mean), ``std`` (sample), ``low`` and
        ``high`` (95 % t interval), ``boot_low`` and ``boot_high``, all in percent; ``seeds`` (with an accuracy) and
        ``lost`` (cells of any variant without one: diverged, failed, missing); for each variant its mean paired
        change in points; the means of ``effective_density``, ``collapsed`` (share of seeds), ``seconds`` and
        ``dense_epochs`` of the search; ``tied``, the largest share of a ticket's kept weights that the cut found
        among equal scores.
    """
    frame = results.assign(accuracy=100 * _column(results, "test/accuracy"))
    original = frame[frame.variant == "original"].groupby(GROUP, sort=False)
    table = original.accuracy.agg(["mean", "std", "count"]).set_axis(["accuracy", "std", "seeds"], axis=1)
    half = half_width(table["std"], table.seeds)
    table["low"], table["high"] = table.accuracy - half, table.accuracy + half
    boots = [bootstrap_interval(group.to_numpy()) for _, group in original.accuracy]
    table["boot_low"], table["boot_high"] = zip(*boots) if boots else ((), ())
    table["lost"] = frame.accuracy.isna().groupby([frame[name] for name in GROUP]).sum()
    wide = by_variant(frame)
    for variant in [name for name in wide if name != "original"]:
        change = (wide[variant] - wide.original).groupby(level=GROUP).mean()
        table[variant] = change.reindex(table.index)
    columns = {"effective_density": "effective_density", "collapsed": "collapsed", "search/seconds": "seconds",
               "search/dense_epochs": "dense_epochs"}  # fmt: skip
    for name, short in columns.items():
        values = _column(frame[frame.variant == "original"], name).astype(float)
        table[short] = values.groupby([frame[key] for key in GROUP]).mean()
    tied = (_column(frame, "search/tied") / _column(frame, "kept")).astype(float)
    table["tied"] = tied.groupby([frame[key] for key in GROUP]).max()
    return table.reset_index()


def by_variant(results: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in percent: a row a setting, method, density and seed; a column a variant, ``original`` first."""
    frame = results.assign(accuracy=100 * _column(results, "test/accuracy"))
    wide = frame.set_index([*GROUP, "seed", "variant"]).accuracy.unstack("variant", sort=False)
    variants = [name for name in frame.variant.unique() if name != "original"]
    return wide.reindex(columns=["original", *variants])


def paired_differences(results: pd.DataFrame) -> pd.DataFrame:
    """Every two methods on the seeds that both have, at each density.

    Args:
        results: As :func:`prune_bench.load_results` gives them; original tickets are compared.

    Returns:
        ``setting density method against``; ``difference`` in points (method minus against), its 95 % t interval
        ``low`` and ``high``, ``pairs`` (seeds), ``p`` of the paired t test and ``p_holm``, corrected by Holm's method
        over all pairs at the same setting and density. NaN where there are fewer than two pairs, or no spread.
    """
    wide = by_variant(results)["original"].unstack("method", sort=False)
    rows = []
    for (setting, density), seeds in wide.groupby(level=["setting", "density"], sort=False):
        present = seeds.dropna(axis=1, how="all")
        table = [
            {"setting": setting, "density": density, "method": one, "against": other}
            | paired_test(present[one].to_numpy() - present[other].to_numpy())
            for one, other in combinations(present.columns, 2)
        ]
        corrected = holm(np.array([row["p"] for row in table]))
        rows += [row | {"p_holm": p} for row, p in zip(table, corrected)]
    columns = ["setting", "density", "method", "against", "difference", "low", "high", "pairs", "p", "p_holm"]
    return pd.DataFrame(rows, columns=columns)


def sanity_verdicts(results: pd.DataFrame) -> pd.DataFrame:
    """Whether each ticket is better than its altered selves: a row a setting, method, density and variant.

    Returns:
        ``setting method density variant``; ``loss`` in points (original minus variant, mean over the same seeds), its
        95 % interval ``low`` and ``high``, ``pairs``, and the ``verdict`` by
        :data:`prune_bench.report.statistics.RULE`.
    """
    wide = by_variant(results)
    rows: list[dict[str, Any]] = []
    for variant in wide.columns.drop("original"):
        lost = (wide.original - wide[variant])[_asked_for(results, wide, variant)]
        groups: Any = lost.groupby(level=GROUP, sort=False)
        for group, values in groups:
            found = t_interval(values.to_numpy())
            rows.append(
                dict(zip(GROUP, group))
                | {"variant": variant, "loss": found.mean, "low": found.low, "high": found.high}
                | {"pairs": found.n, "verdict": verdict(found)}
            )
    columns = [*GROUP, "variant", "loss", "low", "high", "pairs", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def _asked_for(results: pd.DataFrame, wide: pd.DataFrame, variant: str) -> list[bool]:
    """Which rows of :func:`by_variant` belong to a method and density that were asked for in this variant."""
    asked = set(results[results.variant == variant][GROUP].itertuples(index=False, name=None))
    return [key[:-1] in asked for key in wide.index]


def mean_ranks(summary: pd.DataFrame) -> pd.DataFrame:
    """The mean rank of each method over the densities at which all of its setting's pruning methods have an accuracy.

    Args:
        summary: Of :func:`summarise`.

    Returns:
        ``setting method rank densities``, best first; 1 is best, ties share their mean rank.
    """
    rows = []
    for setting, group in summary[summary.density < 1].groupby("setting", sort=False):
        wide = group.pivot(index="density", columns="method", values="accuracy").dropna()
        ranks = wide.rank(axis=1, ascending=False).mean().sort_values()
        rows += [
            {"setting": setting, "method": method, "rank": rank, "densities": len(wide)}
            for method, rank in ranks.items()
        ]
    return pd.DataFrame(rows, columns=["setting", "method", "rank", "densities"]).dropna()


def crossings(summary: pd.DataFrame, points: float) -> dict[tuple[str, str], Crossing]:
    """:func:`crossing` of every (setting, method) that prunes."""
    dense = dense_accuracy(summary)
    groups: Any = summary[summary.density < 1].groupby(["setting", "method"], sort=False)
    return {
        key: crossing(group.density.to_numpy(), group.accuracy.to_numpy(), dense.get(key[0], math.nan), points)
        for key, group in groups
    }


def dense_accuracy(summary: pd.DataFrame) -> dict[str, float]:
    """Mean accuracy of the dense network in percent, by setting; settings without one are left out."""
    dense = summary[(summary.density == 1) & summary.accuracy.notna()]
    return dict(dense.groupby("setting").accuracy.mean())


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    return frame[name] if name in frame else pd.Series(math.nan, index=frame.index)
