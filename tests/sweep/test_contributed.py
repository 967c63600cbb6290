"""Networks and data sets of other packages in a sweep: they work, or their cells fail by name and no more."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import prune_bench as pb
from prune_bench.data import DeviceData, Samples, datasets
from prune_bench.data.registry import DataOptions
from prune_bench.errors import DataError
from prune_bench.models import build_model, models
from prune_bench.randomness import generator
from prune_bench.registry import Entry
from prune_bench.sweep import sweep
from tests.sweep.test_sweep import run

SHAPE = (1, 8, 4)
BASE = {
    "name": "theirs", "model": "theirs", "data": "theirs", "seeds": [0], "executor": "inline",
    "train": {"epochs": 2, "batch_size": 32, "milestones": [1]}, "methods": {"dense": {}, "snip": {}, "ltr": {}},
    "densities": [0.5], "wandb": {"mode": "disabled"},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """None."""


def images(shape=SHAPE, count=96):
    raw = torch.randint(256, (count, *shape), generator=torch.Generator().manual_seed(0))
    return raw.to(torch.uint8), torch.arange(count) % 4


def flat(options, *, in_channels, image_size, num_classes, input_shape=()):
    size = torch.Size(input_shape).numel()
    return nn.Sequential(nn.Flatten(), nn.Linear(size, 8), nn.ReLU(), nn.Linear(8, num_classes))


@pytest.fixture
def theirs(monkeypatch):
    """Registers a model and a data set called ``theirs``, for one test."""

    monkeypatch.setattr(sweep, "show_page", lambda *_: None)  # seconds, of no interest here

    def register(build=flat, pixels=None, labels=None, load=None):
        def load_samples(options, root, seed):
            x, y = images()
            split = Samples(x if pixels is None else pixels(x), y if labels is None else labels(y))
            return DeviceData(
                "theirs", split, split, num_classes=4, mean=(0.5,), std=(0.25,), augmentation="none",
                validation=options.validation, seed=seed, fingerprint="f",
            )  # fmt: skip

        for registry, options, made in ((models, NoOptions, build), (datasets, DataOptions, load or load_samples)):
            entry = Entry(name="theirs", build=made, options=options, source="here", summary="For a test.")
            monkeypatch.setitem(registry._entries, "theirs", entry)

    return register


def rows(folder):
    return pb.load_results(folder).sort_values(["method", "seed"])


class Raises(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.layer, self.error = nn.Linear(32, 4), error

    def forward(self, x):
        if isinstance(self.error, str):
            return getattr(self, self.error)(x)
        raise self.error


@pytest.mark.parametrize("pack", ["auto", "2"])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (AssertionError("odd height"), "AssertionError: odd height"),
        ("heads", "AttributeError: .*'heads'"),
        (KeyError("mode"), "KeyError: 'mode'"),
        (NotImplementedError("soon"), "NotImplementedError: soon"),
        (ZeroDivisionError("by zero"), "ZeroDivisionError"),
    ],
)
def test_a_network_that_fails_in_its_first_pass_is_the_failure_of_its_cells(tmp_path, theirs, error, words, pack):
    theirs(lambda options, **size: Raises(error))
    code, said = run(tmp_path / "run", f"train.pack={pack}", base=BASE)
    assert code == 1
    results = rows(tmp_path / "run")
    assert len(results) == 3 and set(results.status) == {"failed"}
    assert results.reason.str.contains(words, regex=True).any()
    logs = "".join(path.read_text() for path in (tmp_path / "run" / "store" / "logs").iterdir())
    assert "in forward" in logs and "Traceback" in logs
    assert "--retry-failed" in said


def test_a_builder_that_fails_is_too(tmp_path, theirs):
    def build(options, **size):
        raise AssertionError("no such size")

    theirs(build)
    assert run(tmp_path / "run", base=BASE)[0] == 1
    assert rows(tmp_path / "run").reason.str.contains("AssertionError: no such size").any()


def test_a_dry_run_says_that_the_time_is_not_known(tmp_path, theirs):
    theirs(lambda options, **size: Raises(AssertionError("odd height")))
    code, said = run(tmp_path / "run", base=BASE, dry_run=True)
    assert code == 0
    assert "time: not known, for the network cannot be trained: AssertionError: odd height" in " ".join(said.split())


class Picky(nn.Module):
    """Asserts what holds for its own input, and not for several networks' side by side."""

    def __init__(self, give=None):
        super().__init__()
        self.layers, self.give = nn.Sequential(nn.Flatten(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 4)), give

    def forward(self, x):
        assert x.shape[1] == 1, "one channel"
        logits = self.layers(x)
        return logits if self.give is None else self.give(logits)


def test_a_valid_network_that_asserts_is_trained_unpacked_and_outputs_may_hold_logits(tmp_path, theirs):
    found = {}
    for kind, give in (("plain", None), ("tuple", lambda y: (y, y * 2)), ("dict", lambda y: {"logits": y, "z": 0})):
        theirs(lambda options, give=give, **size: Picky(give))
        assert run(tmp_path / kind, base=BASE)[0] == 0
        found[kind] = rows(tmp_path / kind)
        assert set(found[kind].lanes) == {1}
    for kind in ("tuple", "dict"):
        assert found[kind]["test/loss"].tolist() == found["plain"]["test/loss"].tolist()


def test_images_that_are_higher_than_wide(tmp_path, theirs):
    shapes = []

    def build(options, *, in_channels, image_size, num_classes, input_shape):
        shapes.append((in_channels, image_size, input_shape))
        return flat(options, in_channels=1, image_size=4, num_classes=num_classes, input_shape=input_shape)

    theirs(build)
    assert run(tmp_path / "run", base=BASE)[0] == 0
    assert set(shapes) == {(1, 4, SHAPE)}
    assert run(tmp_path / "dry", "model=lenet300_100", base=BASE, dry_run=True)[0] == 0


@pytest.mark.parametrize("name", ["lenet300_100", "resnet8", "vgg11", "resnet18"])
def test_shipped_networks_take_images_that_are_not_square(name):
    for shape in (SHAPE, (2, 4, 9), (3, 70, 66)):
        made = build_model(name, {}, input_shape=shape, num_classes=3, generator=generator(0, "t"))
        assert made(torch.zeros(2, *shape)).shape == (2, 3)


def test_a_builder_of_before_is_called_as_before():
    def build(options, *, in_channels, image_size, num_classes):
        return nn.Linear(in_channels * image_size, num_classes)

    with pytest.MonkeyPatch.context() as patch:
        entry = Entry(name="old", build=build, options=NoOptions, source="here", summary="For a test.")
        patch.setitem(models._entries, "old", entry)
        how = {"num_classes": 3, "generator": generator(0, "t")}
        assert build_model("old", {}, in_channels=2, image_size=5, **how).in_features == 10
        assert build_model("old", {}, input_shape=(2, 9, 5), **how).in_features == 10


def test_a_wrapper_that_a_builder_gives_is_taken_off(tmp_path, theirs):
    theirs(lambda options, *, input_shape, **size: nn.DataParallel(flat(options, input_shape=input_shape, **size)))
    assert run(tmp_path / "run", "methods=snip", base=BASE)[0] == 0


def test_a_column_of_labels_costs_what_a_row_of_labels_does(tmp_path, theirs):
    theirs()
    assert run(tmp_path / "row", base=BASE)[0] == 0
    theirs(labels=lambda y: y[:, None])
    assert run(tmp_path / "column", base=BASE)[0] == 0
    one, other = rows(tmp_path / "row"), rows(tmp_path / "column")
    assert one["search/dense_epochs"].tolist() == other["search/dense_epochs"].tolist()
    assert one["test/loss"].tolist() == other["test/loss"].tolist()
    # Two epochs of two batches of 32 of the 86 samples that are not set aside for validation.
    assert one[one.method == "ltr"]["search/dense_epochs"].max() == pytest.approx(4 * 2 * 2 * 32 / 86)


def test_pixels_from_0_to_1_train_as_raw_ones_do(tmp_path, theirs):
    theirs()
    assert run(tmp_path / "raw", "methods=[dense]", base=BASE)[0] == 0
    theirs(pixels=lambda x: x.float() / 255)
    assert run(tmp_path / "unit", "methods=[dense]", base=BASE)[0] == 0
    one, other = rows(tmp_path / "raw"), rows(tmp_path / "unit")
    assert one["test/loss"].tolist() == pytest.approx(other["test/loss"].tolist(), rel=1e-4)


def test_wrong_labels_end_the_sweep_before_it_begins(tmp_path, theirs):
    theirs(labels=lambda y: y + 1)
    with pytest.raises(DataError, match="theirs: the labels run from 1 to 4"):
        run(tmp_path / "run", base=BASE)
    assert not (tmp_path / "run").exists()


class Tabular:
    """A data set that is none of this package's classes: rows of numbers."""

    fingerprint, num_classes, input_shape, samples = "f", 4, (6,), 64

    def __init__(self, shift=0, column=False):
        self._x = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
        self._y = torch.arange(96) % 4 + shift
        self._y = self._y[:, None] if column else self._y

    def to(self, device):
        return self

    def steps_per_epoch(self, batch_size):
        return 64 // batch_size

    def epoch(self, epoch, batch_size, *, augment):
        order = torch.randperm(64, generator=torch.Generator().manual_seed(epoch))
        for index in order.split(batch_size):
            yield self._x[index], self._y[index]

    def balanced(self, per_class):
        return self._x[: 4 * per_class], self._y[: 4 * per_class]

    def evaluation(self, split, batch_size):
        chosen = {"validation": range(0), "test": range(64, 96)}[split]
        if len(chosen):
            yield self._x[list(chosen)], self._y[list(chosen)]


def test_rows_of_numbers_are_data_too(tmp_path, theirs):
    theirs(load=lambda options, root, seed: Tabular())
    assert run(tmp_path / "lenet", "model=lenet300_100", "methods=[cts]", "methods.cts.steps=2", base=BASE)[0] == 0
    assert run(tmp_path / "theirs", base=BASE)[0] == 0
    assert set(rows(tmp_path / "theirs").status) == {"done"}


@pytest.mark.parametrize(
    ("how", "words"),
    [({"shift": 1}, r"balanced\(1\) of the data set Tabular: the labels run from 1 to 4"),
     ({"column": True}, r"Tabular: the labels are torch.int64 \[4, 1\]: wanted are int64 \[4\]")],
)  # fmt: skip
def test_labels_of_a_class_of_ones_own_are_looked_at_before_anything_runs(tmp_path, theirs, how, words):
    theirs(load=lambda options, root, seed: Tabular(**how))
    with pytest.raises(DataError, match=words):
        run(tmp_path / "run", base=BASE)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["snip", "magnitude", "random_erk", "synflow", "cts", "ltr", "grasp"])
def test_a_density_that_keeps_no_weight_is_a_collapsed_row_and_no_error(tmp_path, theirs, method):
    theirs()
    options = {"cts": "{steps: 2, batch_size: 32}", "synflow": "{steps: 2}", "ltr": "{cut: 0.99}"}.get(method, "{}")
    code, _ = run(tmp_path / "run", f"methods={{{method}: {options}}}", "densities=[0.001]", base=BASE)
    assert code == 0
    results = rows(tmp_path / "run")
    assert set(results.kept) == {0} and set(results.collapsed) == {True}
