"""Published accuracies: read as printed, and laid beside a measurement only where everything that matters agrees."""

import csv
from dataclasses import asdict
from importlib.resources import files

import pytest

from prune_bench import cli
from prune_bench.config import load_experiment
from prune_bench.pruners import pruners
from prune_bench.report.build import make_report
from prune_bench.report.compare import compare_run
from prune_bench.report.published import headline_table, published_table
from tests.report.synthetic import make_run

GRID = "experiments/resnet20_cifar10.yaml"


def options(method, **changed):
    entry = pruners[method]
    return {"method": method, "options": asdict(entry.options()) | changed}


def published_run(folder, methods, *words, prune_at="init", **shape):
    """A run of the published grid whose methods are told with their options."""
    shape = {"densities": (0.8**10,), "variants": ("original",), "accuracy": lambda cell: 0.9} | shape
    return make_run(
        folder, methods=tuple(methods), options={**methods, "dense": options("dense")}, model="resnet20",
        data="cifar10", prune_at=prune_at, experiment=load_experiment(GRID, list(words)), **shape,
    )  # fmt: skip


def by_method(run):
    table, reasons, _ = compare_run(run)
    return {row["method"]: row for row in table.to_dict("records")}, reasons


def printed(**wanted):
    """The one row of the file that says so, read without any of our code."""
    with (files("prune_bench.report") / "reference" / "accuracy.csv").open() as file:
        (row,) = [row for row in csv.DictReader(file) if wanted.items() <= row.items()]
    return float(row["test_accuracy_mean"]), float(row["test_accuracy_std"])


def test_the_table_is_whole():
    table = published_table()
    assert len(table) == 2301
    assert set(table.model) == {"resnet20", "vgg16"} and set(table.data) == {"cifar10"}
    assert table.accuracy.between(9, 95).all()
    row = table[(table.model == "resnet20") & (table.method == "cts:feature_mse") & (table.density == 0.64)].iloc[0]
    assert (row.accuracy, row["std"], row.how, row.prune_at) == (91.523, 0.109, "gradbalance,long", "init")


def test_a_reduced_precision_is_told_beside_the_published_row(tmp_path):
    methods = {"synflow": options("synflow"), "cts": options("cts", epochs=20, precision="tf32")}
    rows, _ = by_method(published_run(tmp_path / "full", methods))
    assert "passes in" not in rows["synflow"]["note"]
    assert rows["cts"]["note"] == "measured with passes in tf32"
    rows, _ = by_method(published_run(tmp_path / "reduced", methods, "train.precision=bfloat16"))
    assert rows["synflow"]["note"].startswith("measured with passes in bfloat16; the published code takes signs")
    assert rows["cts"]["note"] == "measured with passes in bfloat16 and tf32"


def test_the_headline_is_the_papers():
    told = headline_table().set_index("method")
    assert tuple(told.loc["cts_kl", ["accuracy", "minutes"]]) == (74.0, 7.9)
    assert tuple(told.loc["ltr", ["accuracy", "minutes"]]) == (68.3, 95.2)
    assert told.density.round(3).eq(0.007).all()


@pytest.mark.parametrize(
    ("method", "changed", "wanted"),
    [
        ("cts", {"epochs": 20}, {"method": "cts:task_loss", "control_and_search": "gradbalance,short"}),
        ("cts", {"epochs": 160}, {"method": "cts:task_loss", "control_and_search": "gradbalance,long"}),
        ("cts_kl", {"objective": "forward_kl", "control": "lagrange"},
         {"method": "cts:forward_kl", "control_and_search": "lagrange,short"}),
        ("snip", {}, {"method": "snip"}),
        ("grasp", {}, {"method": "grasp"}),
        ("synflow", {}, {"method": "synflow"}),
        ("random", {}, {"method": "random"}),
        ("magnitude", {}, {"method": "magnitude_at_init"}),
    ],
)  # fmt: skip
def test_each_method_stands_beside_its_own_row(tmp_path, method, changed, wanted):
    run = published_run(tmp_path / "run", {method: options(method, **changed)})
    row = by_method(run)[0][method]
    mean, std = printed(model="resnet20", prune_at="init", density="0.107374", **wanted)
    assert (row["published"], row["published_std"]) == (mean, std)
    assert row["difference"] == pytest.approx(90 - mean)


def test_the_dense_network_has_a_published_accuracy_too(tmp_path):
    run = published_run(tmp_path / "run", {"snip": options("snip")})
    assert by_method(run)[0]["dense"]["published"] == 92.215


@pytest.mark.parametrize(("epoch", "point"), [(3, "rewind"), (9, "late_rewind")])
def test_ltr_stands_beside_the_row_of_its_rewind_epoch(tmp_path, epoch, point):
    run = published_run(tmp_path / "run", {"ltr": options("ltr")}, f"train.rewind_epoch={epoch}", prune_at="rewind")
    wanted = printed(model="resnet20", method="ltr", prune_at=point, density="0.107374")
    assert by_method(run)[0]["ltr"]["published"] == wanted[0]


@pytest.mark.parametrize(
    ("methods", "words", "why"),
    [
        ({"cts_kl": options("cts_kl")}, (), "forward_kl and not reverse_kl"),
        ({"cts": options("cts", epochs=40)}, (), "40 epochs"),
        ({"cts": options("cts", steps=100)}, (), "steps=100 (published: None)"),
        ({"snip": options("snip", steps=10)}, (), "steps=10 (published: 1)"),
        (
            {"snip": options("snip")},
            ("train.epochs=20", "train.milestones=[10,15]"),
            "train.epochs=20 (published: 160)",
        ),
        ({"snip": options("snip")}, ("data.validation=0.1",), "trained on all images"),
        ({"random_erk": options("random_erk")}, (), "no published row for random_erk at init"),
        ({"snip": options("snip", micro_batch=20)}, (), "micro_batch=20 (published: None)"),
        ({"grasp": options("grasp", micro_batch=20)}, (), "micro_batch=20 (published: None)"),
        ({"cts": options("cts", scale=5.0)}, (), "scale=5.0 (published: None)"),
        ({"snip": options("snip", smoothing=0.1)}, (), "smoothing=0.1 (unknown to the published tables)"),
        ({"magnitude": options("magnitude", per_layer=True)}, (), "per_layer=True (unknown"),
        ({"snip": options("snip")}, ("train.eval_batch_size=100",), "train.eval_batch_size=100 (unknown"),
        ({"snip": options("snip")}, ("data.augment=false",), "data.augment=False (published: True)"),
        ({"snip": options("snip")}, ("data.mixup=0.2",), "data.mixup=0.2 (unknown"),
        ({"cts_mine": {"method": "cts_mine", "options": {}}}, (), "no published row for cts_mine at init"),
        ({"ctsx": {"method": "ctsx", "options": {"epochs": 3, "k": 1}}}, (), "no published row for ctsx at init"),
        ({"ltr": options("ltr")}, (), "no published row for ltr at init"),
    ],
)
def test_where_something_differs_there_is_no_number_but_a_reason(tmp_path, methods, words, why):
    found, reasons = by_method(published_run(tmp_path / "run", methods, *words))
    method = next(iter(methods))
    assert method not in found
    assert why in reasons[f"resnet20 · cifar10 · init: {method}"]


def test_known_faults_of_the_published_code_are_said(tmp_path):
    methods = {name: options(name) for name in ("synflow", "grasp", "snip")}
    found, _ = by_method(published_run(tmp_path / "run", methods))
    assert "signs after absolute values" in found["synflow"]["note"]
    assert "accumulates absolute values" in found["grasp"]["note"]
    assert found["snip"]["note"] == ""


@pytest.mark.parametrize(
    ("values", "within"),
    [((0.3, 0.0, -0.3), "yes"), ((1.3, 1.0, 0.7), "no"), ((0.01, 0.0, -0.01), "yes"), ((0.0,), "too few seeds")],
    ids=["between", "far off", "spot on", "one seed"],
)
def test_within_both_spreads(tmp_path, values, within):
    mean, _ = printed(model="resnet20", method="snip", prune_at="init", density="0.107374")
    run = published_run(
        tmp_path / "run", {"snip": options("snip")}, seeds=len(values),
        accuracy=lambda cell: (mean + values[cell.seed]) / 100,
    )  # fmt: skip
    assert by_method(run)[0]["snip"]["within"] == within


def test_the_command_prints_both_and_says_what_is_not_compared(tmp_path, capsys):
    methods = {"snip": options("snip"), "cts_kl": options("cts_kl")}
    run = published_run(tmp_path / "run", methods, densities=(0.8**10, 0.8**22))
    assert cli.main(["compare", str(run)]) == 0
    out = capsys.readouterr().out
    assert "90.00 ± 0.00 (3)" in out and "snip, at init" in out
    assert "not compared: resnet20 · cifar10 · init: cts_kl: the published tables have forward_kl" in out
    assert "headline" in out and "74.0 % in 7.9 min" in out and "90.0 % in 1.1 min" in out
    assert cli.main(["compare", str(run), "--format", "md"]) == 0
    assert capsys.readouterr().out.startswith("| method | density |")


def test_a_run_of_other_things_is_told_that_nothing_can_be_compared(tmp_path, capsys):
    assert cli.main(["compare", str(make_run(tmp_path / "run"))]) == 0
    assert "nothing to compare" in capsys.readouterr().out


def test_the_report_draws_every_published_density_and_says_so(tmp_path):
    run = published_run(tmp_path / "run", {"synflow": options("synflow")})
    report = make_report([run])
    assert len(report.tables["published"]) == 16
    assert any("are drawn for 1 methods" in note for note in report.notes)
    other = published_run(tmp_path / "other", {"synflow": options("synflow")}, "train.lr=0.05")
    report = make_report([other])
    assert report.tables["published"].empty
    assert len(report.notes) == 1
    assert "but the recipe differs: train.lr=0.05 (published: 0.1)." in report.notes[0]


def test_a_recipe_with_an_option_that_the_tables_do_not_know_is_another_recipe(tmp_path):
    run = published_run(tmp_path / "run", {"snip": options("snip")})
    file = run / "experiment.yaml"
    file.write_text(file.read_text().replace("train:\n", "train:\n  label_smoothing: 0.1\n"))
    found, reasons = by_method(run)
    assert found == {}
    assert "train.label_smoothing=0.1 (unknown" in reasons["resnet20 · cifar10 · init: snip"]


def test_where_the_data_lies_and_who_is_packed_with_whom_makes_no_other_recipe(tmp_path):
    words = ("data.root=/elsewhere", "data.workers=3", "train.pack=2")
    assert "snip" in by_method(published_run(tmp_path / "run", {"snip": options("snip")}, *words))[0]
