"""Results as data: of one run or several, each cell once, every column documented."""

import re
from pathlib import Path

import pandas as pd
import pytest

import prune_bench as pb
from prune_bench.config import make_experiment
from prune_bench.errors import PruneBenchError
from prune_bench.sweep.run_folder import read_rates, write_rates
from prune_bench.vocabulary import METRICS
from tests.report.synthetic import make_run
from tests.sweep.test_sweep import undisturbed  # noqa: F401


def test_a_row_a_cell_with_metrics_and_where_it_comes_from(tmp_path):
    results = pb.load_results(make_run(tmp_path / "one", lost={("snip", 0.1, "original", 2)}))
    assert len(results) == 3 + 3 * 3 * 2 * 3
    assert set(results.setting) == {"resnet8 · digits · init"} and set(results.run) == {"one"}
    lost = results[results.status != "done"]
    assert lost[["method", "density", "variant", "seed"]].values.tolist() == [["snip", 0.1, "original", 2]]
    assert lost.reason.item() == "RuntimeError: <b>out</b> of luck"
    assert lost["test/accuracy"].isna().all()


def test_every_column_is_documented_and_nothing_else_is(undisturbed):  # noqa: F811
    text = (Path(pb.__file__).parents[1] / "docs" / "results.md").read_text()
    told = {
        name
        for line in text.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", line.split(" | ")[0])
    }
    there = set(pb.load_results(undisturbed[0]).columns)
    assert there <= told
    assert told - there <= {"search/hard_objective", "search/kept_retention"}


def test_metrics_have_the_meaning_of_the_vocabulary():
    text = (Path(pb.__file__).parents[1] / "docs" / "results.md").read_text()
    for line in text.splitlines():
        name, _, meaning = line.strip("| ").partition(" | ")
        if name.strip("`") in METRICS and name != "`density`":
            assert meaning == METRICS[name.strip("`")]


def test_two_runs_of_one_recipe_are_one_table(tmp_path):
    one = make_run(tmp_path / "one", methods=("snip",))
    two = make_run(tmp_path / "two", methods=("grasp",), dense=False)
    results = pb.load_results(one, two)
    assert set(results.method) == {"dense", "snip", "grasp"}
    assert results.setting.nunique() == 1


def test_a_cell_that_both_have_counts_once_and_done_wins(tmp_path):
    one = make_run(tmp_path / "a" / "same", lost={("snip", 0.1, "original", 0)})
    two = make_run(tmp_path / "b" / "same")
    two = two.rename(two.with_name("other"))
    results = pb.load_results(one, two)
    assert len(results) == len(pb.load_results(one))
    assert set(results.status) == {"done"}


def test_one_name_for_two_things_says_which_runs_it_is(tmp_path):
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two")
    results = pb.load_results(one, two)
    assert {"snip @ one", "snip @ two"} <= set(results.method)
    assert not results.duplicated(["setting", "method", "density", "variant", "seed"]).any()


def test_runs_of_different_recipes_are_different_settings(tmp_path):
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two")
    text = (two / "experiment.yaml").read_text()
    (two / "experiment.yaml").write_text(text.replace("lr: 0.1", "lr: 0.05"))
    results = pb.load_results(one, two)
    assert results.setting.nunique() == 2
    assert "snip" in set(results.method)


def test_runs_of_one_name_cannot_be_told_apart(tmp_path):
    with pytest.raises(PruneBenchError, match="same name"):
        pb.load_results(make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run"))


def test_parquet_holds_what_the_table_holds(tmp_path):
    results = pb.load_results(make_run(tmp_path / "one", lost={("snip", 0.1, "original", 2)}))
    results.to_parquet(tmp_path / "results.parquet", index=False)
    back = pd.read_parquet(tmp_path / "results.parquet")
    missing = results.astype(object).where(results.notna(), None)
    pd.testing.assert_frame_equal(back.astype(object).where(back.notna(), None), missing)


def test_where_the_data_lies_makes_no_other_setting(tmp_path):
    runs = []
    for name, words in {"one": [], "two": ["data.root=/elsewhere"], "three": ["data.workers=4"]}.items():
        made = make_experiment({"name": "made", "methods": {"snip": {}}}, words)
        runs.append(make_run(tmp_path / name, methods=("snip",), dense=False, experiment=made))
    assert pb.load_results(*runs).setting.nunique() == 1
    other = make_experiment({"name": "made", "methods": {"snip": {}}}, ["data.validation=0.2"])
    runs.append(make_run(tmp_path / "four", methods=("snip",), dense=False, experiment=other))
    assert pb.load_results(*runs).setting.nunique() == 2


def test_what_stages_cost_is_kept_for_every_kind_of_device(tmp_path):
    write_rates(tmp_path, "cpu", {"": 1.0, "training snip": 2.0})
    write_rates(tmp_path, "cuda", {"": 0.1})
    write_rates(tmp_path, "cpu", {"": 3.0})
    assert read_rates(tmp_path, "cpu") == {"": 3.0, "training snip": 2.0}
    assert read_rates(tmp_path, "cuda") == {"": 0.1}
    (tmp_path / "costs.json").write_text("[1]")
    assert read_rates(tmp_path, "cpu") == {}
    write_rates(tmp_path, "cpu", {"": 3.0})
    assert read_rates(tmp_path, "cpu") == {"": 3.0}
