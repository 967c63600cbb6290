"""What a handful of seeds can bear: intervals, paired tests, the sanity verdict, crossings, fronts.

Accuracies are in percent and differences in points. A figure that needs more seeds than there are is NaN, and whoever
shows it says "too few seeds".
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import stdtr, stdtrit

Floats = np.ndarray[Any, np.dtype[np.float64]]
Verdict = Literal["pass", "fail", "too few seeds"]

LEVEL = 0.95
MARGIN = 1.0
"""Points of accuracy below which a loss does not matter."""
_SPREAD = 1e-4  # points; less is float32 rounding, and seeds that agree in every image say nothing of the next
BOOTSTRAP_FROM = 5
"""Seeds from which on a bootstrap interval is given: fewer values have too few resamples."""

RULE = (
    "A ticket passes a check when the 95 % paired t interval of the accuracy that the variant loses against its "
    f"original (same seeds) lies above 0; it fails when the interval is not above 0 and lies below {MARGIN:g} point; "
    "anything else, and fewer than two pairs or pairs without spread, is too few seeds to tell. So a ticket whose "
    f"variants lose nothing passes, and one whose variants lose {MARGIN:g} point or more fails, in at most 1 of 40 "
    "cases each."
)
"""The sanity verdict in words, as every report prints it."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over seeds and its confidence interval, whose ends are NaN below two seeds or without spread."""

    mean: float
    std: float
    low: float
    high: float
    n: int


def t_interval(values: Sequence[float] | Floats, level: float = LEVEL) -> Interval:
    """Student's t interval of the mean.

    Args:
        values: One a seed, shape [n]; NaN is left out.
        level: Of confidence.
    """
    given = _finite(values)
    n = len(given)
    mean = float(given.mean()) if n else math.nan
    std = float(given.std(ddof=1)) if n > 1 else math.nan
    half = float(half_width(std, n, level))
    return Interval(mean=mean, std=std, low=mean - half, high=mean + half, n=n)


def half_width(std: Any, n: Any, level: float = LEVEL) -> Any:
    """Half of a t interval's width, t(level, n - 1) std / sqrt(n); NaN below two seeds or without spread.

    Arguments may be arrays, which broadcast.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.where(np.asarray(std) > _SPREAD, std, math.nan)
        return stdtrit(np.subtract(n, 1.0), (1 + level) / 2) * spread / np.sqrt(n)


def bootstrap_interval(values: Sequence[float] | Floats, level: float = LEVEL) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval of the mean (Efron 1987), from a fixed seed.

    Args:
        values: One a seed, shape [n]; NaN is left out.
        level: Of confidence.

    Returns:
        Low and high; NaN below ``BOOTSTRAP_FROM`` seeds and for values without spread.
    """
    given = _finite(values)
    if len(given) < BOOTSTRAP_FROM or np.ptp(given) < _SPREAD:
        return math.nan, math.nan
    from scipy import stats  # takes half a second, which a table of three seeds need not wait for

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (given,), np.mean, confidence_level=level, n_resamples=1999, rng=np.random.default_rng(0)
        )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def paired_test(differences: Floats) -> dict[str, float]:
    """Two-sided paired t test of differences in points, shape [pairs], NaN left out.

    Returns:
        ``difference`` (mean), its 95 % interval ``low`` and ``high``, ``pairs`` and ``p``; NaN below two pairs or
        without spread.
    """
    found = t_interval(differences)
    p = math.nan
    if not math.isnan(found.low):
        p = float(2 * stdtr(found.n - 1.0, -abs(found.mean) / (found.std / math.sqrt(found.n))))
    return {"difference": found.mean, "low": found.low, "high": found.high, "pairs": found.n, "p": p}


def holm(p_values: Floats) -> Floats:
    """Holm's step-down correction of a family of p values, shape [m]; NaN stays NaN and is no test (Holm 1979)."""
    corrected = np.full(len(p_values), math.nan)
    there = np.flatnonzero(~np.isnan(p_values))
    order = there[np.argsort(p_values[there])]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p_values[order] * factors)) if len(order) else []
    return corrected


def verdict(lost: Interval) -> Verdict:
    """The verdict on the accuracy lost by a variant, by :data:`RULE`."""
    if lost.low > 0:
        return "pass"
    return "fail" if lost.high < MARGIN else "too few seeds"


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Where a method falls some points below dense.

    Attributes:
        density: Interpolated, or the grid's end that it lies beyond.
        side: ``at`` the density, ``above`` it (the densest ticket has fallen already), ``below`` it (none has), or
            ``unknown`` (no dense accuracy, or none of the method's).
    """

    density: float
    side: Literal["at", "above", "below", "unknown"]


def crossing(densities: Floats, accuracies: Floats, dense: float, points: float) -> Crossing:
    """The largest density at which a method's mean accuracy falls more than some points below dense.

    Between two densities accuracy is taken as linear in the density's logarithm.

    Args:
        densities: Shape [k], in any order.
        accuracies: Their mean accuracies in percent, shape [k]; NaN is left out.
        dense: Accuracy of the dense network in percent.
        points: How far below.
    """
    there = ~np.isnan(accuracies)
    order = np.argsort(-densities[there])
    x, fallen = np.log(densities[there][order]), dense - accuracies[there][order] - points
    if math.isnan(dense) or not len(x):
        return Crossing(density=math.nan, side="unknown")
    if not (fallen > 0).any():
        return Crossing(density=float(np.exp(x[-1])), side="below")
    first = int(np.argmax(fallen > 0))
    if first == 0:
        return Crossing(density=float(np.exp(x[0])), side="above")
    part = fallen[first - 1] / (fallen[first - 1] - fallen[first])
    return Crossing(density=float(np.exp(x[first - 1] + part * (x[first] - x[first - 1]))), side="at")


def pareto_front(cost: Floats, accuracy: Floats) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which points no other one beats: none is as cheap and as accurate, and better in one of them.

    Args:
        cost: Shape [n], less is better.
        accuracy: Shape [n], more is better. A NaN in either is never on the front.

    Returns:
        Booleans, shape [n].
    """
    cheaper = cost[None] <= cost[:, None]
    better = accuracy[None] >= accuracy[:, None]
    strictly = (cost[None] < cost[:, None]) | (accuracy[None] > accuracy[:, None])
    beaten = (cheaper & better & strictly).any(axis=1)
    front: np.ndarray[Any, np.dtype[np.bool_]] = ~beaten & ~np.isnan(cost) & ~np.isnan(accuracy)
    return front


def _finite(values: Sequence[float] | Floats) -> Floats:
    given = np.asarray(values, dtype=np.float64)
    there: Floats = given[np.isfinite(given)]
    return there
