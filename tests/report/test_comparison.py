"""The comparison's tables, on results small enough to be checked by eye."""

import math

import pandas as pd
import pytest

from prune_bench.report.comparison import (
    crossings,
    dense_accuracy,
    mean_ranks,
    paired_differences,
    sanity_verdicts,
    summarise,
)


def cells(method, density, accuracies, variant="original", setting="net", **more):
    """Results of a method, a seed each; None is a cell that failed."""
    return [
        {"setting": setting, "method": method, "density": density, "variant": variant, "seed": seed,
         "test/accuracy": math.nan if value is None else value / 100,
         "status": "failed" if value is None else "done", "effective_density": density, "collapsed": False,
         "search/seconds": 2.0 * (seed + 1), "search/dense_epochs": 1.0} | more
        for seed, value in enumerate(accuracies)
    ]  # fmt: skip


def table(*groups):
    return pd.DataFrame([row for group in groups for row in group])


def only(frame, **where):
    for name, value in where.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_mean_spread_seeds_and_cost():
    row = only(summarise(table(cells("snip", 0.1, [80, 82, 84]))))
    assert (row.accuracy, row["std"], row.seeds, row.lost) == (pytest.approx(82), pytest.approx(2), 3, 0)
    assert row.low == pytest.approx(82 - 4.3027 * 2 / math.sqrt(3), abs=1e-3)
    assert (row.seconds, row.dense_epochs, row.collapsed) == (4.0, 1.0, 0.0)
    assert row.effective_density == pytest.approx(0.1)


def test_cells_without_an_accuracy_are_lost_and_in_no_mean():
    frame = table(cells("snip", 0.1, [80, None, 84]), cells("snip", 0.1, [70, 71, None], "layer_shuffle"))
    row = only(summarise(frame))
    assert (row.accuracy, row.seeds, row.lost) == (pytest.approx(82), 2, 2)
    assert row.layer_shuffle == pytest.approx(-10)  # of seed 0, the only one that has both


def test_one_seed_has_no_spread_and_no_interval():
    row = only(summarise(table(cells("snip", 0.1, [80]))))
    assert math.isnan(row["std"]) and math.isnan(row.low) and row.seeds == 1


def test_bootstrap_intervals_come_with_five_seeds():
    few, many = cells("snip", 0.1, [80, 81, 82, 83]), cells("cts", 0.1, [80, 81, 82, 83, 84])
    found = summarise(table(few, many)).set_index("method").boot_low
    assert math.isnan(found.snip) and 80 < found.cts < 82


def test_paired_differences_use_the_seeds_that_both_have():
    frame = table(cells("snip", 0.1, [80, 81, 82, None]), cells("cts", 0.1, [81, 83, 85, 99]))
    row = only(paired_differences(frame))
    assert (row.method, row.against, row.pairs) == ("snip", "cts", 3)
    assert row.difference == pytest.approx(-2)
    # differences -1, -2, -3: mean -2, std 1, t = -2 sqrt(3); p of t = 3.464 with 2 degrees of freedom is 0.0742
    assert row.p == pytest.approx(0.0742, abs=1e-4)


def test_holms_family_is_one_density_of_one_setting():
    def three(density, setting="net"):
        return [cells(m, density, [80 + k, 81 + 2 * k, 82.5 + k], setting=setting) for k, m in enumerate("abc")]

    frame = paired_differences(table(*three(0.1), *three(0.05), *three(0.1, "other")))
    assert len(frame) == 9
    one = frame[(frame.setting == "net") & (frame.density == 0.1)]
    smallest = one.loc[one.p.idxmin()]
    assert smallest.p_holm == pytest.approx(3 * smallest.p)


def test_methods_without_a_common_seed_have_no_difference():
    other = [row | {"seed": row["seed"] + 9} for row in cells("cts", 0.1, [81, 83])]
    row = only(paired_differences(table(cells("snip", 0.1, [80, 81]), other)))
    assert row.pairs == 0 and math.isnan(row.difference) and math.isnan(row.p_holm)


def test_verdicts_of_each_variant_that_was_asked_for():
    frame = table(
        cells("cts", 0.1, [90, 91, 92]),
        cells("cts", 0.1, [80, 82, 81], "layer_shuffle"),
        cells("cts", 0.1, [90.1, 90.9, 92.0], "reinit"),
        cells("random", 0.1, [70, 71, 72]),
    )
    found = sanity_verdicts(frame)
    assert set(found.method) == {"cts"}
    shuffled = only(found, variant="layer_shuffle")
    assert (shuffled.loss, shuffled.pairs, shuffled.verdict) == (pytest.approx(10), 3, "pass")
    assert only(found, variant="reinit").verdict == "fail"


def test_a_variant_whose_cells_all_failed_is_undecided_and_not_left_out():
    frame = table(cells("cts", 0.1, [90, 91]), cells("cts", 0.1, [None, None], "layer_shuffle"))
    row = only(sanity_verdicts(frame))
    assert (row.pairs, row.verdict) == (0, "too few seeds")


def test_ranks_are_means_over_densities_that_all_have_and_ties_share():
    frame = table(
        cells("a", 0.1, [90]), cells("b", 0.1, [80]), cells("c", 0.1, [80]),
        cells("a", 0.05, [70]), cells("b", 0.05, [75]), cells("c", 0.05, [60]),
        cells("a", 0.01, [99]), cells("b", 0.01, [98]),
        cells("dense", 1.0, [99]),
    )  # fmt: skip
    ranks = mean_ranks(summarise(frame)).set_index("method")
    assert ranks["rank"].to_dict() == {"a": 1.5, "b": 1.75, "c": 2.75}
    assert set(ranks.densities) == {2}


def test_settings_are_never_mixed():
    frame = table(
        cells("a", 0.1, [90, 91]), cells("a", 0.1, [50, 51], setting="other"),
        cells("dense", 1.0, [95]), cells("dense", 1.0, [60], setting="other"),
    )  # fmt: skip
    assert dense_accuracy(summarise(frame)) == pytest.approx({"net": 95, "other": 60})
    assert summarise(frame).groupby("setting").accuracy.min().to_dict() == pytest.approx({"net": 90.5, "other": 50.5})


def test_crossings_are_against_the_dense_network_of_the_same_setting():
    frame = table(
        cells("dense", 1.0, [95]), cells("a", 0.1, [95]), cells("a", 0.01, [93]), cells("b", 0.1, [96]),
        cells("c", 0.1, [90], setting="without dense"),
    )  # fmt: skip
    found = crossings(summarise(frame), 1)
    assert found["net", "a"].density == pytest.approx(10**-1.5)
    assert found["net", "b"].side == "below"
    assert found["without dense", "c"].side == "unknown"
