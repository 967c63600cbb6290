"""The answer's sentences, on results whose answer can be seen by eye."""

import math

import pandas as pd
import pytest

from prune_bench.report.comparison import paired_differences, sanity_verdicts, summarise
from prune_bench.report.page.words import answer, sparsity

SETTING = "net · data · init"


def results(**accuracies):
    """``method=(density, [percent a seed], [percent of its shuffle])`` as results."""
    rows = []
    for method, (density, *each) in accuracies.items():
        for variant, values in zip(("original", "layer_shuffle"), each):
            rows += [
                {"setting": SETTING, "method": method, "density": density, "variant": variant, "seed": seed,
                 "test/accuracy": value / 100, "effective_density": density, "collapsed": False,
                 "search/seconds": 12.0, "search/dense_epochs": 3.0}
                for seed, value in enumerate(values)
            ]  # fmt: skip
    return pd.DataFrame(rows)


def told(frame):
    return answer(SETTING, summarise(frame), sanity_verdicts(frame), paired_differences(frame))


@pytest.mark.parametrize(
    ("density", "words"), [(0.01, "99 %"), (0.05, "95 %"), (0.5, "50 %"), (0.0068, "99.32 %"), (0.001, "99.9 %")]
)
def test_sparsity_is_told_as_papers_do(density, words):
    assert sparsity(density) == words


def test_the_winner_its_lead_its_cost_and_its_checks_are_in_the_headline():
    frame = results(
        dense=(1.0, [98, 98, 98.5]),
        snip=(0.01, [80, 81, 82], [60, 62, 61]),
        cts=(0.01, [90, 91.1, 91.9], [90, 91, 92]),
    )
    said = told(frame)
    assert said.density == 0.01
    assert "At 99 % sparsity cts is ahead with 91.0 % (95 % interval 88.6 to 93.4, 3 seeds)" in said.headline
    assert "+10.0 points over snip, more than chance" in said.headline
    assert "Finding its ticket costs 12 s and 3 dense epochs" in said.headline
    assert "layer shuffle: fails" in said.headline
    assert [method for method, _ in said.methods] == ["cts", "snip"]
    assert "layer shuffle: passes" in dict(said.methods)["snip"]
    assert "7.2 points below dense" in dict(said.methods)["cts"]


def test_a_lead_that_may_be_chance_is_called_so():
    said = told(results(snip=(0.01, [80, 85, 90]), cts=(0.01, [86, 80, 92])))
    assert "+1.0 points over snip, within chance" in said.headline


def test_one_seed_is_too_few_and_no_number_is_made_up():
    said = told(results(snip=(0.01, [80]), cts=(0.01, [86])))
    assert "86.0 % (1 seed: too few for an interval)" in said.headline
    assert "too few seeds to tell whether that is chance" in said.headline
    assert "nan" not in said.headline + " ".join(words for _, words in said.methods)


def test_methods_on_different_seeds_are_not_compared():
    frame = results(snip=(0.01, [80, 81]), cts=(0.01, [86, 87]))
    frame.loc[frame.method == "cts", "seed"] += 5
    assert "snip comes next, on other seeds" in told(frame).headline


def test_without_a_pruned_network_that_is_what_is_said():
    said = told(results(dense=(1.0, [98, 98])))
    assert said.headline == "No pruned network has an accuracy yet."
    assert math.isnan(said.density)
