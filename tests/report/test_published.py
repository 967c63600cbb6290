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

GRID = "experiments/cts_2025_{}.yaml"
SEARCH = {"lr": 0.15, "draws": 4, "multiplier": "free", "feature_correction": 1, "gradient_over": "all"}


def options(method, **changed):
    """A method as a result records it; concrete searches as the tables have them, but for what is ``changed``."""
    entry, search = pruners[method], {}
    if method in ("cts", "cts_kl"):
        search = SEARCH | {"decay_at": 119 / 160 if changed.get("epochs") == 160 else 1.0}
    return {"method": method, "options": asdict(entry.options()) | search | changed}


def published_run(folder, methods, *words, prune_at="init", model="resnet20", **shape):
    """A run of the published grid whose methods are told with their options."""
    shape = {"densities": (0.8**10,), "variants": ("original",), "accuracy": lambda cell: 0.9} | shape
    return make_run(
        folder, methods=tuple(methods), options={**methods, "dense": options("dense")}, model=model,
        data="cifar10", prune_at=prune_at, experiment=load_experiment(GRID.format(model), list(words)), **shape,
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


EARLY, LATE = {"resnet20": 3, "vgg16": 5}, {"resnet20": 9, "vgg16": 15}
OTHERS = {
    "snip": "snip",
    "grasp": "grasp",
    "synflow": "synflow",
    "random": "random",
    "magnitude": "magnitude_at_init",
}


def every_method():
    """Every method of the tables as ours, and the name of its rows there."""
    searches = {
        f"{objective} {control} {epochs}": (
            options("cts", objective=objective, control=control, epochs=epochs),
            f"cts:{objective}", f"{control},{'short' if epochs == 20 else 'long'}",
        )
        for objective in ("task_loss", "forward_kl", "loss_change", "feature_mse", "gradient_match", "gradient_norm")
        for control in ("gradbalance", "lagrange")
        for epochs in (20, 160)
    }  # fmt: skip
    others = {name: (options(name), row, "") for name, row in OTHERS.items()}
    graspm = {"grasp by magnitude": (options("grasp", by_magnitude=True), "grasp_magnitude", "")}
    return searches | others | graspm | {"ltr": (options("ltr"), "ltr", "")}


def expected_point(label, model, epoch):
    """The tables' name of the point, as their authors' scripts have it; None where they have no such run."""
    if epoch == 0:
        return "init"
    if label == "ltr":
        return {EARLY[model]: "rewind", LATE[model]: "late_rewind"}.get(epoch)
    late = label not in (*OTHERS, "grasp by magnitude")
    return "rewind" if epoch == (LATE if late else EARLY)[model] else None


@pytest.mark.parametrize("model", ["resnet20", "vgg16"])
@pytest.mark.parametrize("epoch", [0, 3, 5, 9, 15])
def test_every_published_row_is_matched_where_all_agrees_and_nowhere_else(tmp_path, model, epoch):
    methods = every_method()
    words, point = ((f"train.rewind_epoch={epoch}",), "rewind") if epoch else ((), "init")
    run = published_run(
        tmp_path / "run", {label: told for label, (told, _, _) in methods.items()}, *words,
        prune_at=point, model=model, densities=(0.8**10, 0.8**22), seeds=1,
    )  # fmt: skip
    table, reasons, _ = compare_run(run)
    found = {(row["method"], round(row["density"], 4)): row["published"] for row in table.to_dict("records")}
    with (files("prune_bench.report") / "reference" / "accuracy.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == model]
    matched = 0
    for label, (_, name, how) in methods.items():
        wanted = {
            row["density"]: float(row["test_accuracy_mean"])
            for row in rows
            if row["prune_at"] == expected_point(label, model, epoch)
            and (row["method"], row["control_and_search"]) == (name, how)
        }
        for density, printed_as in ((0.8**10, "0.107374"), (0.8**22, "0.007379")):
            assert found.get((label, round(density, 4))) == wanted.get(printed_as), label
            matched += printed_as in wanted
        assert bool(reasons.get(f"{model} · cifar10 · {point}: {label}")) == (not wanted), label
    assert matched == len(found) - (("dense", 1.0) in found)


@pytest.mark.parametrize(
    ("method", "model", "epoch", "point"),
    [
        ("ltr", "vgg16", 5, "rewind"),
        ("ltr", "vgg16", 3, None),
        ("snip", "resnet20", 9, None),
        ("snip", "resnet20", 3, "rewind"),
        ("ltr", "resnet20", 9, "late_rewind"),
        ("ltr", "vgg16", 15, "late_rewind"),
        ("cts", "resnet20", 9, "rewind"),
        ("cts", "resnet20", 3, None),
    ],
)
def test_each_method_has_its_own_rewind_epoch(tmp_path, method, model, epoch, point):
    words = (f"train.rewind_epoch={epoch}",)
    run = published_run(tmp_path / "run", {method: options(method)}, *words, prune_at="rewind", model=model)
    rows, reasons = by_method(run)
    if point is None:
        assert method not in rows
        assert f"{epoch}" in reasons[f"{model} · cifar10 · rewind: {method}"]
        return
    how = {"control_and_search": "gradbalance,short"} if method == "cts" else {}
    name = "cts:task_loss" if method == "cts" else method
    wanted, _ = printed(model=model, method=name, prune_at=point, density="0.107374", **how)
    assert rows[method]["published"] == wanted


@pytest.mark.parametrize("model", ["resnet20", "vgg16"])
def test_the_sane_recipe_is_told_from_the_published_one_in_words(tmp_path, model):
    experiment = load_experiment(f"experiments/{model}_cifar10.yaml")
    run = make_run(
        tmp_path / "run", methods=("snip",), options={"snip": options("snip")}, model=model, data="cifar10",
        experiment=experiment, densities=(0.8**10,), variants=("original",),
    )  # fmt: skip
    rows, reasons = by_method(run)
    assert not rows
    why = reasons[f"{model} · cifar10 · init: snip"]
    network = (
        ["model.shortcut=conv1 (published: conv3)"]
        if model == "resnet20"
        else ["model.last_pool=True (published: False)", "model.prune_classifier=True (published: False)"]
    )
    for said in ("train.loss_reduction=mean", "train.clip_over=kept", "train.norm_batch=None", *network):
        assert said in why


def test_a_run_made_before_there_were_such_options_differs_by_them(tmp_path):
    run = published_run(tmp_path / "run", {"cts": options("cts"), "snip": options("snip")})
    file = run / "experiment.yaml"
    new = ("clip_over", "loss_reduction", "norm_batch", "shortcut", "recipe")
    file.write_text("\n".join(line for line in file.read_text().splitlines() if not line.strip().startswith(new)))
    rows, reasons = by_method(run)
    assert not rows
    for said in ("train.clip_over=kept", "train.loss_reduction=mean", "train.norm_batch=None", "shortcut=conv1"):
        assert said in reasons["resnet20 · cifar10 · init: snip"]
    told = options("cts")
    told["options"] = {name: value for name, value in told["options"].items() if name not in SEARCH or name == "lr"}
    run = published_run(tmp_path / "old", {"cts": told})
    assert "draws=1 (published: 4)" in by_method(run)[1]["resnet20 · cifar10 · init: cts"]


def test_a_method_of_ones_own_whose_name_begins_like_theirs_is_no_published_one(tmp_path):
    run = published_run(tmp_path / "run", {"cts_mine": {"method": "cts_mine", "options": {"strength": 2}}})
    assert by_method(run)[1] == {"resnet20 · cifar10 · init: cts_mine": "no published row for cts_mine at init"}


@pytest.mark.parametrize(
    ("methods", "words", "why"),
    [
        ({"cts_kl": options("cts_kl")}, (), "forward_kl and not reverse_kl"),
        ({"cts": options("cts", draws=1)}, (), "draws=1 (published: 4)"),
        ({"cts": options("cts", lr=0.1)}, (), "lr=0.1 (published: 0.15)"),
        ({"cts": options("cts", decay_at=0.88)}, (), "decay_at=0.88 (published: 1.0)"),
        ({"cts": options("cts", epochs=160, decay_at=1.0)}, (), "decay_at=1.0 (published: 0.74375)"),
        (
            {"cts": options("cts", control="lagrange", multiplier="clamped")},
            (),
            "multiplier=clamped (published: free)",
        ),
        (
            {"cts": options("cts", objective="feature_mse", feature_correction=0)},
            (),
            "feature_correction=0 (published: 1)",
        ),
        (
            {"cts": options("cts", objective="gradient_norm", gradient_over="prunable")},
            (),
            "gradient_over=prunable (published: all)",
        ),
        ({"cts": options("cts", made_up=3)}, (), "made_up=3 (unknown to the published tables)"),
        ({"snip": options("snip", micro_batch=10)}, (), "micro_batch=10 (published: None)"),
        ({"snip": options("snip")}, ("train.loss_reduction=mean",), "train.loss_reduction=mean (published: sum)"),
        ({"snip": options("snip")}, ("train.clip_over=kept",), "train.clip_over=kept (published: all)"),
        ({"snip": options("snip")}, ("train.clip={norm: 1.0}",), "train.clip_norm=1.0 (published: 2.0)"),
        ({"snip": options("snip")}, ("train.norm_batch=null",), "train.norm_batch=None (published: 128)"),
        ({"snip": options("snip")}, ("train.eval_batch_size=64",), "train.eval_batch_size=64 (published: 512)"),
        (
            {"snip": options("snip")},
            ("train.milestones=[80,120]",),
            "train.milestones=[80, 120] (published: [79, 119])",
        ),
        ({"snip": options("snip")}, ("model.shortcut=conv1",), "model.shortcut=conv1 (published: conv3)"),
        ({"snip": options("snip")}, ("model.width=8",), "model.width=8 (published: 16)"),
        ({"snip": options("snip")}, ("data.augment=false",), "data.augment=False (published: True)"),
        (
            {"snip": options("snip")},
            ("train.lr=0.2", "data.validation=0.1"),
            "train.lr=0.2 (published: 0.1), data.valid",
        ),
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
    assert "2 g1 + g2" in found["grasp"]["note"]
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
    assert "not comparable: its options differ: lr=0.15 (published: 0.1), decay_at=1.0 (published: 0.8)" in out
    methods = {"cts_kl": options("cts_kl", lr=0.1, decay_at=0.8)}
    assert cli.main(["compare", str(published_run(tmp_path / "same", methods, densities=(0.8**22,)))]) == 0
    assert "not comparable" not in capsys.readouterr().out
    assert cli.main(["compare", str(run), "--format", "md"]) == 0
    assert capsys.readouterr().out.startswith("| method | density |")


def test_a_run_of_other_things_is_told_that_nothing_can_be_compared(tmp_path, capsys):
    assert cli.main(["compare", str(make_run(tmp_path / "run"))]) == 0
    assert "nothing to compare" in capsys.readouterr().out


def test_the_report_draws_every_published_density_and_says_so(tmp_path):
    methods = {"synflow": options("synflow"), "cts": options("cts", draws=1)}
    run = published_run(tmp_path / "run", methods)
    report = make_report([run])
    assert "Not beside a published row: cts: its options differ: draws=1 (published: 4)." in report.notes
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
