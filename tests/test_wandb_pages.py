"""The comparison in W&B: its runs, workspace and report, against a server on loopback and as specifications."""

import json
import sys

import pytest
from rich.console import Console

from prune_bench import cli
from prune_bench.config import Wandb
from prune_bench.errors import ConfigError, PruneBenchError
from prune_bench.report.build import make_report
from prune_bench.report.statistics import RULE
from prune_bench.tracking import Mirror
from prune_bench.wandb_comparison import comparison_runs
from prune_bench.wandb_pages import make_panels, make_report_page, make_workspace, publish
from tests.report.synthetic import make_run
from tests.test_tracking import read_back
from tests.test_tracking_online import server  # noqa: F401

pytest.importorskip("wandb_workspaces")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "made", methods=("snip", "cts"), densities=(0.1, 0.01))


@pytest.fixture(scope="module")
def report(run):
    return make_report([run])


def told(report):
    return comparison_runs(report.summary, report.checks, "made", report.digest)


def dumped(model):
    return json.loads(model.model_dump_json(by_alias=True, exclude_none=True))


def test_a_comparison_has_a_run_a_method_and_bound_with_a_row_a_density(report):
    runs = {run.name: run for run in told(report)}
    assert set(runs) == {f"{method}, {bound}" for method in ("snip", "cts") for bound in ("mean", "low", "high")}
    for bound, column in (("mean", "accuracy"), ("low", "low"), ("high", "high")):
        curve = runs[f"snip, {bound}"].curves
        assert [row["density"] for row in curve] == [0.1, 0.01]
        wanted = report.summary[(report.summary.method == "snip")].set_index("density")[column]
        assert [row["comparison/accuracy"] for row in curve] == pytest.approx([wanted[0.1], wanted[0.01]])
    checks = report.checks[(report.checks.method == "snip") & (report.checks.density == 0.01)].iloc[0]
    assert runs["snip, mean"].curves[1]["comparison/loss/layer_shuffle"] == pytest.approx(checks.loss)
    assert runs["snip, high"].curves[1]["comparison/loss/layer_shuffle"] == pytest.approx(checks.high)


def test_one_seed_has_a_mean_and_no_interval(tmp_path):
    report = make_report([make_run(tmp_path / "one", methods=("snip",), seeds=1)])
    assert [run.name for run in told(report)] == ["snip, mean"]


def test_other_results_make_other_runs_and_the_same_ones_the_same(report):
    again = comparison_runs(report.summary, report.checks, "made", report.digest)
    other = comparison_runs(report.summary, report.checks, "made", "another")
    assert [run.key for run in again] == [run.key for run in told(report)]
    assert not {run.key for run in other} & {run.key for run in again}


def test_offline_a_comparison_reads_back_as_it_is(report, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = told(report)[0]
    with Mirror(Wandb(mode="offline"), tmp_path) as mirror:
        mirror.send(run)
        assert mirror.close() == 0
    words = json.dumps(read_back(tmp_path)[run.key])
    for said in ("comparison/accuracy", "comparison/loss/layer_shuffle", report.digest, "comparison"):
        assert said in words


def test_the_panels_one_by_one(report):
    panels = {
        section: [(dumped(panel._to_model())["viewType"], dumped(panel._to_model())["config"]) for panel in panels]
        for section, panels in make_panels(report).items()
    }
    assert list(panels) == ["Accuracy against sparsity", "Sanity checks", "Cost", "Cells"]

    ((kind, accuracy),) = panels["Accuracy against sparsity"]
    assert kind == "Run History Line Plot"
    assert accuracy["xAxis"] == "density" and accuracy["xLogScale"] is True
    assert accuracy["metrics"] == ["comparison/accuracy"]
    assert (accuracy["groupAgg"], accuracy["groupArea"]) == ("mean", "minmax")
    assert "line" in accuracy["groupBy"]

    ((kind, sanity),) = panels["Sanity checks"]
    assert kind == "Run History Line Plot" and sanity["metrics"] == ["comparison/loss/layer_shuffle"]

    costs = panels["Cost"]
    assert [kind for kind, _ in costs] == ["Scatter Plot"] * 2
    assert [cost["xAxis"] for _, cost in costs] == ["summary:search/dense_epochs", "summary:search/seconds"]
    assert {cost["yAxis"] for _, cost in costs} == {"summary:test/accuracy"}

    (parallel, columns), (curves, loss), (comparer, _) = panels["Cells"]
    assert (parallel, curves, comparer) == ("Parallel Coordinates Plot", "Run History Line Plot", "Run Comparer")
    axes = [column["accessor"] for column in columns["columns"]]
    assert "method" in axes[0] and "density" in axes[1] and "test/accuracy" in axes[-1]
    assert loss["metrics"] == ["train/loss"]


def test_a_run_without_variants_has_no_empty_section(tmp_path):
    report = make_report([make_run(tmp_path / "plain", variants=("original",))])
    assert "Sanity checks" not in make_panels(report)


def test_the_workspace_groups_the_runs_cells_by_method(report):
    spec = dumped(make_workspace(report, ["made"], "team", "pruning")._to_model())["spec"]["section"]
    sections = spec["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == list(make_panels(report))
    words = json.dumps(spec["runSets"])
    assert "method" in words
    for said in ('"made"', '"jobType"', report.digest):
        assert said in words


def test_the_report_holds_the_answer_the_table_and_the_panels(report):
    page = make_report_page(report, ["made"], "", "")
    words = page._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
    text = json.dumps(json.loads(words), ensure_ascii=False)
    assert report.answers[0].headline in text
    assert RULE in text
    assert "| density | method |" in text.replace("\\\\", "")
    grids = [block for block in page.blocks if type(block).__name__ == "PanelGrid"]
    assert [len(grid.panels) for grid in grids] == [1, 1, 2, 3]
    assert [grid.runsets[0].name for grid in grids] == list(make_panels(report))


def test_specifications_are_the_same_every_time(report):
    def both():
        workspace, page = make_workspace(report, ["made"], "t", "p"), make_report_page(report, ["made"], "", "")
        return dumped(workspace._to_model()), dumped(page._to_model().spec)

    assert both() == both()


def test_publishing_again_changes_nothing_and_makes_nothing_twice(report, run, server):  # noqa: F811
    seen = []
    for _ in range(2):
        assert publish(report, [run], "team/pruning", Console(quiet=True)) == 0
        # The client draws a new internal name for a report at each save; nobody sees it.
        views = {key: {**view, "name": ""} for key, view in server.views.items()}
        seen.append(json.dumps([views, {name: server.run(name)["created"] for name in sorted(server.runs)}]))
        history = server.run(told(report)[0].key)["history"]
        assert [row["density"] for row in history] == [0.1, 0.01]
        assert sorted(view["type"] for view in server.views.values()) == ["project-view", "runs"]
        assert len(server.runs) == 3 + 2 * 2 * 2 * 3 + 6
    assert seen[0] == seen[1]


def test_new_results_update_the_pages_and_leave_the_cells_alone(tmp_path, server):  # noqa: F811
    run = make_run(tmp_path / "grows", methods=("snip",), lost={("snip", 0.1, "original", 0)})
    publish(make_report([run]), [run], "team/pruning", Console(quiet=True))
    before = {key: view["spec"] for key, view in server.views.items()}
    make_run(run, methods=("snip",))
    publish(make_report([run]), [run], "team/pruning", Console(quiet=True))
    assert set(server.views) == set(before)
    assert all(server.views[key]["spec"] != spec for key, spec in before.items())


@pytest.mark.parametrize("target", ["pruning", "team/", "/pruning", "a/b/c"])
def test_a_target_that_is_none_is_told_before_anything_is_sent(report, run, target):
    with pytest.raises(ConfigError, match="ENTITY/PROJECT"):
        publish(report, [run], target, Console(quiet=True))


def test_without_the_extra_it_is_named(report, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(PruneBenchError, match=r"prune-bench\[workspaces\]"):
        publish(report, [run], "team/pruning", Console(quiet=True))


def test_the_command_names_both_pages(run, server, tmp_path, capsys):  # noqa: F811
    assert cli.main(["report", str(run), "--output", str(tmp_path), "--wandb", "team/pruning"]) == 0
    out = capsys.readouterr().out
    assert "workspace: http://127.0.0.1" in out and "report: http://127.0.0.1" in out
