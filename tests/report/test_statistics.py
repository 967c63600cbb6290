"""The statistics against scipy, statsmodels, hand-computed values, brute force, and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from prune_bench.report.statistics import (
    MARGIN,
    bootstrap_interval,
    crossing,
    half_width,
    holm,
    paired_test,
    pareto_front,
    t_interval,
    verdict,
)

DRAWS = 20_000
SEEDS = [3, 5, 10]


def samples(n, *, mean=0.0, std=1.0, seed=0, draws=DRAWS):
    return np.random.default_rng(seed).normal(mean, std, (draws, n))


def within_error(rate, expected, draws=DRAWS, errors=5):
    """As near as so many draws can tell; five standard errors, so that chance never fails a test."""
    return abs(rate - expected) <= errors * math.sqrt(expected * (1 - expected) / draws)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_the_t_interval_is_scipys(n):
    values = samples(n, mean=90, draws=1)[0]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = t_interval(values)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.mean, found.std, found.n) == (values.mean(), pytest.approx(values.std(ddof=1)), n)


def test_an_interval_by_hand():
    # t(0.975, 2 degrees of freedom) is 4.3027 in every table; std is 1.
    found = t_interval([89, 90, 91])
    assert found.low == pytest.approx(90 - 4.3027 / math.sqrt(3), abs=1e-4)


@pytest.mark.parametrize("values", [[], [90.0], [90.0, math.nan], [90.0, 90.0, 90.0]])
def test_too_few_seeds_or_no_spread_have_no_interval(values):
    found = t_interval(values)
    assert math.isnan(found.low) and math.isnan(found.high)
    assert math.isnan(paired_test(np.array(values, dtype=float))["p"])


def test_spread_of_float32_rounding_is_none():
    assert math.isnan(t_interval(np.array([0.1, 0.1, 0.1], dtype=np.float32) * 100 + [0, 1e-6, -1e-6]).low)


@pytest.mark.parametrize("n", SEEDS)
def test_intervals_cover_at_their_rate(n):
    values = samples(n, mean=90)
    mean, half = values.mean(axis=1), half_width(values.std(axis=1, ddof=1), n)
    assert within_error(np.mean(abs(mean - 90) <= half), 0.95)


@pytest.mark.parametrize("n", [5, 10])
def test_bootstrap_is_scipys_bca_and_narrower_than_t(n):
    for values in samples(n, mean=90, draws=5):
        low, high = bootstrap_interval(values)
        # Another seed and more resamples: of five values there are few distinct means, so the ends jump a little.
        told = stats.bootstrap((values,), np.mean, n_resamples=9999, rng=np.random.default_rng(1)).confidence_interval
        error = values.std(ddof=1) / math.sqrt(n)
        assert (low, high) == pytest.approx((told.low, told.high), abs=0.4 * error)
        assert high - low < t_interval(values).high - t_interval(values).low


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0, 4.0], [90.0] * 6])
def test_no_bootstrap_below_five_seeds_or_without_spread(values):
    assert np.isnan(bootstrap_interval(values)).all()


@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_paired_test_is_scipys(n):
    one, other = samples(n, mean=91, draws=1)[0], samples(n, mean=90, seed=1, draws=1)[0]
    expected = stats.ttest_rel(one, other)
    found = paired_test(one - other)
    assert found["p"] == pytest.approx(expected.pvalue)
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found["pairs"] == n


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_is_statsmodels(p_values):
    expected = multipletests(p_values, method="holm")[1]
    assert holm(np.array(p_values)) == pytest.approx(expected)


def test_a_test_that_was_not_made_is_none_of_the_family():
    found = holm(np.array([0.01, math.nan, 0.04]))
    assert found[[0, 2]] == pytest.approx([0.02, 0.04])
    assert math.isnan(found[1])


def verdict_rates(n, loss, noise=1.0):
    values = samples(n, mean=loss, std=noise)
    told = [verdict(t_interval(row)) for row in values[:4000]]
    return {name: told.count(name) / len(told) for name in ("pass", "fail", "too few seeds")}


@pytest.mark.parametrize("n", SEEDS)
def test_a_ticket_whose_variant_loses_nothing_passes_in_1_of_40(n):
    assert within_error(verdict_rates(n, loss=0)["pass"], 0.025, draws=4000)


@pytest.mark.parametrize("n", SEEDS)
def test_a_ticket_whose_variant_loses_the_margin_fails_in_no_more_than_1_of_40(n):
    # Less than 1 of 40 when the loss, though at the margin, is mostly seen to be above nothing.
    rate = verdict_rates(n, loss=MARGIN)["fail"]
    assert rate <= 0.025 or within_error(rate, 0.025, draws=4000)


def test_more_seeds_decide_more_often():
    for loss, right in ((0, "fail"), (5, "pass")):
        rates = [verdict_rates(n, loss, noise=0.7)[right] for n in SEEDS]
        assert rates == sorted(rates) and rates[-1] > 0.8


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ([4.0, 5.0, 6.0], "pass"),
        ([0.1, 0.2, 0.15], "pass"),  # small, and sure
        ([-0.2, 0.0, 0.2], "fail"),
        ([-5.0, -6.0, -7.0], "fail"),  # the variant is better
        ([-5.0, 0.0, 8.0], "too few seeds"),
        ([3.0], "too few seeds"),
        ([3.0, 3.0, 3.0], "too few seeds"),
    ],
)
def test_verdicts_by_the_rule(lost, told):
    assert verdict(t_interval(lost)) == told


D = np.array([0.1, 0.05, 0.01])


def test_a_crossing_is_interpolated_in_the_logarithm_of_density():
    # From 0.1 (0 points below 95) to 0.01 (2 below): one point below lies half-way, at 10**-1.5.
    found = crossing(np.array([0.01, 0.1]), np.array([93.0, 95.0]), dense=95.0, points=1)
    assert (found.side, found.density) == ("at", pytest.approx(10**-1.5))


@pytest.mark.parametrize(
    ("accuracies", "side", "density"),
    [
        ([90, 80, 70], "above", 0.1),
        ([95, 94.5, 94.1], "below", 0.01),
        ([95, 94, 90], "at", math.exp(math.log(0.05))),  # exactly 1 below is not more than 1 below
        ([95, math.nan, 93], "at", 10**-1.5),
    ],
)
def test_crossings_beyond_the_grid_say_so(accuracies, side, density):
    found = crossing(D, np.array(accuracies, dtype=float), dense=95.0, points=1)
    assert (found.side, found.density) == (side, pytest.approx(density))


def test_a_crossing_of_nothing_is_unknown():
    assert crossing(D, np.full(3, math.nan), 95.0, 1).side == "unknown"
    assert crossing(D, np.array([90.0, 80, 70]), math.nan, 1).side == "unknown"


def brute_front(points):
    def beats(a, b):
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    return [not any(beats(other, point) for other in points) for point in points]


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(points):
    cost, accuracy = (np.array(values, dtype=float) for values in zip(*points))
    assert pareto_front(cost, accuracy).tolist() == brute_front(points)


def test_what_was_not_measured_is_never_on_the_front():
    front = pareto_front(np.array([1.0, math.nan, 2.0]), np.array([90.0, 99.0, math.nan]))
    assert front.tolist() == [True, False, False]
