"""The answer in sentences: who wins, by how much, at what cost, and whether it passes its checks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from prune_bench.report.comparison import crossings, dense_accuracy
from prune_bench.report.statistics import Crossing

ASKED_FIRST = 0.01
"""The density people ask for first: the grid's nearest one is shown when the page opens."""
VARIANTS = {"layer_shuffle": "layer shuffle", "reinit": "re-initialised", "invert": "inverted"}


@dataclass(frozen=True, kw_only=True)
class Winner:
    """Who is ahead at one density.

    Attributes:
        density: Of the tickets.
        method: With the highest mean accuracy.
        accuracy: Its accuracy with interval and seeds, in words.
        lead: Over the next one, in words.
        cost: Of finding its ticket.
        checks: Its sanity verdicts.
    """

    density: float
    method: str
    accuracy: str
    lead: str
    cost: str
    checks: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a setting's results come to.

    Attributes:
        setting: Model, data, pruning point.
        density: The one that the sentences are about.
        headline: Who wins there.
        methods: A sentence a method, best first.
        winners: A row a density, densest first.
    """

    setting: str
    density: float
    headline: str
    methods: list[tuple[str, str]]
    winners: list[Winner]


def answer(setting: str, summary: pd.DataFrame, checks: pd.DataFrame, pairs: pd.DataFrame) -> Answer:
    """The answer for one setting.

    Args:
        setting: One of the tables' settings.
        summary: Of :func:`prune_bench.report.comparison.summarise`.
        checks: Of :func:`prune_bench.report.comparison.sanity_verdicts`.
        pairs: Of :func:`prune_bench.report.comparison.paired_differences`.
    """
    summary, checks, pairs = (table[table.setting == setting] for table in (summary, checks, pairs))
    tickets = summary[(summary.density < 1) & summary.accuracy.notna()]
    densities = sorted(tickets.density.unique(), reverse=True)
    winners = [_winner(tickets[tickets.density == density], checks, pairs) for density in densities]
    if not densities:
        words = "No pruned network has an accuracy yet."
        return Answer(setting=setting, density=math.nan, headline=words, methods=[], winners=[])
    density = first_density(densities)
    best = winners[densities.index(density)]
    here = _rows(tickets[tickets.density == density].sort_values("accuracy", ascending=False))
    dense = dense_accuracy(summary).get(setting, math.nan)
    one, five = (crossings(summary, points) for points in (1, 5))
    sentences = [
        (row["method"], _sentence(row, dense, one[setting, row["method"]], five[setting, row["method"]], checks))
        for row in here
    ]
    headline = (
        f"At {sparsity(density)} sparsity {best.method} is ahead with {best.accuracy}; {best.lead}. "
        f"Finding its ticket costs {best.cost}. Sanity checks: {best.checks}."
    )
    return Answer(setting=setting, density=density, headline=headline, methods=sentences, winners=winners)


def first_density(densities: list[float]) -> float:
    """The density that a report opens at."""
    return min(densities, key=lambda density: abs(math.log(density / ASKED_FIRST)))


def sparsity(density: float) -> str:
    """A density's sparsity in percent, with as many digits as the density has."""
    digits = max(0, 1 - math.floor(math.log10(100 * density))) if density < 0.1 else 1
    return f"{100 * (1 - density):.{digits}f}".rstrip("0").rstrip(".") + " %"


def _winner(tickets: pd.DataFrame, checks: pd.DataFrame, pairs: pd.DataFrame) -> Winner:
    rows = _rows(tickets.sort_values("accuracy", ascending=False))
    best, density = rows[0], rows[0]["density"]
    return Winner(
        density=density,
        method=best["method"],
        accuracy=_accuracy(best),
        lead=_lead(best, rows[1:], pairs[pairs.density == density]),
        cost=_cost(best),
        checks=_checks(checks, best["method"], density) or "none were run",
    )


def _accuracy(row: dict[str, Any]) -> str:
    seeds = f"{row['seeds']} seed{'s' * (row['seeds'] != 1)}"
    if math.isnan(row["low"]):
        return f"{row['accuracy']:.1f} % ({seeds}: too few for an interval)"
    low, high = np.clip([row["low"], row["high"]], 0, 100)
    return f"{row['accuracy']:.1f} % (95 % interval {low:.1f} to {high:.1f}, {seeds})"


def _lead(best: dict[str, Any], others: list[dict[str, Any]], pairs: pd.DataFrame) -> str:
    if not others:
        return "nothing else was measured there"
    method, other = best["method"], others[0]["method"]
    one = pairs[(pairs.method == method) & (pairs.against == other)]
    turned = one.empty
    if turned:
        one = pairs[(pairs.method == other) & (pairs.against == method)]
    if one.empty or not one.pairs.iloc[0]:
        return f"{other} comes next, on other seeds"
    pair, sign = one.iloc[0], -1 if turned else 1
    words = f"{_signed(sign * pair.difference)} points over {other}"
    if math.isnan(pair.low):
        return f"{words} (too few seeds to tell whether that is chance)"
    low, high = sorted((sign * pair.low, sign * pair.high))
    sure = "more than chance" if pair.p_holm < 0.05 else "within chance"
    return f"{words}, {sure} (95 % interval {_signed(low)} to {_signed(high)}; Holm p {_p(pair.p_holm)})"


def _signed(points: float) -> str:
    return f"{points:+.1f}".replace("-", "−")


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"


def _cost(row: dict[str, Any]) -> str:
    parts = []
    if not math.isnan(row["seconds"]):
        parts.append(f"{_digits(row['seconds'])} s")
    if not math.isnan(row["dense_epochs"]):
        parts.append(f"{_digits(row['dense_epochs'])} dense epochs")
    return " and ".join(parts) or "an unknown time"


def _digits(cost: float) -> str:
    return f"{cost:.2g}" if cost < 10 else f"{cost:,.0f}"


def _checks(checks: pd.DataFrame, method: str, density: float) -> str:
    here = checks[(checks.method == method) & (checks.density == density)]
    words = {"pass": "passes", "fail": "fails", "too few seeds": "too few seeds to tell"}
    return ", ".join(
        f"{VARIANTS.get(row['variant'], row['variant'])}: {words[row['verdict']]}" for row in _rows(here)
    )


def _sentence(row: dict[str, Any], dense: float, one: Crossing, five: Crossing, checks: pd.DataFrame) -> str:
    below = dense - row["accuracy"]
    apart = "" if math.isnan(dense) else f", {abs(below):.1f} points {'below' if below >= 0 else 'above'} dense"
    words = f"{_accuracy(row)}{apart}; its ticket costs {_cost(row)}."
    if one.side != "unknown":
        words += f" It falls more than 1 point below dense {_where(one)}, and 5 points {_where(five)}."
    if said := _checks(checks, row["method"], row["density"]):
        words += f" Sanity checks: {said}."
    if row["collapsed"] > 0:
        words += f" Layers collapse in {row['collapsed']:.0%} of its seeds."
    if row["lost"]:
        words += f" {row['lost']} of its cells there have no accuracy."
    return words


def _where(crossing: Crossing) -> str:
    if crossing.side == "at":
        return f"at density {crossing.density:.3g}"
    if crossing.side == "above":
        return f"before density {crossing.density:.3g}, the densest measured"
    return f"nowhere down to density {crossing.density:.3g}, the sparsest measured"


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
