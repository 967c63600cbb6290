"""The comparison's numbers, by hand."""

import math

import pandas as pd
import pytest

from prune_bench.report.table import markdown_table, summarise


def frame():
    rows = [
        ("snip", 0.1, "original", 0, 0.80), ("snip", 0.1, "original", 1, 0.90),
        ("snip", 0.1, "layer_shuffle", 0, 0.70), ("snip", 0.1, "layer_shuffle", 1, 0.60),
        ("dense", 1.0, "original", 0, 0.95), ("dense", 1.0, "original", 1, math.nan),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["method", "density", "variant", "seed", "test/accuracy"])
    return table.assign(prune_at="init", effective_density=table.density)


def test_mean_sample_deviation_and_paired_difference():
    snip, dense = summarise(frame()).to_dict("records")
    assert snip["accuracy"] == pytest.approx(85)
    assert snip["std"] == pytest.approx(math.sqrt(50))
    assert snip["layer_shuffle"] == pytest.approx((-10 - 30) / 2)
    assert dense["accuracy"] == pytest.approx(95)
    assert math.isnan(dense["std"])
    assert dense["lost"] == 1


def test_markdown_has_a_line_a_method():
    lines = markdown_table(frame()).splitlines()
    assert len(lines) == 4
    assert "85.0 ± 7.1" in lines[3]
