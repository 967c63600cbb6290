"""What an experiment may say, and what is said of one that may not be."""

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from prune_bench.config import experiment_values, load_experiment, make_experiment, save_experiment
from prune_bench.errors import ConfigError
from prune_bench.files import open_files
from prune_bench.options import option_table
from prune_bench.places import data_root
from prune_bench.pruners import pruners
from prune_bench.sweep.cells import check, check_shares, expand, read_methods

BASE = {"name": "x", "methods": ["snip", "ltr"], "densities": [0.1, 0.05]}


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("sed=1", ["sed", "unknown key", "allowed", "Did you mean 'seeds'"]),
        ("train.epoch=3", ["train.epoch", "3", "Did you mean 'epochs'"]),
        ("train.lr=-1", ["train.lr", "-1", "greater than 0"]),
        ("train.lr=fast", ["train.lr", "fast", "number"]),
        ("seeds=[]", ["seeds", "empty"]),
        ("seeds=[0,1,0]", ["seeds", "0", "more than once"]),
        ("seeds=010", ["seeds", "010", "octal"]),
        ("seeds=[-1]", ["seeds.0", "-1"]),
        ("densities=[]", ["densities", "empty"]),
        ("densities=[0]", ["densities.0", "0", "greater than 0"]),
        ("densities=[1.5]", ["densities.0", "1.5", "less than or equal to 1"]),
        ("densities=yes", ["densities.0", "True", "number"]),
        ("densities={base: 0.8}", ["densities", "base and powers"]),
        ("variants=[layer_shufle]", ["variants.0", "layer_shufle", "Did you mean 'layer_shuffle'"]),
        ("methods=[snap]", ["methods", "snap", "allowed", "Did you mean 'snip'"]),
        ("methods.snip.stepz=3", ["methods.snip.stepz", "Did you mean 'steps'"]),
        ("methods.snip.steps=none", ["methods.snip.steps", "none", "integer"]),
        ("methods.snip=3", ["methods.snip", "3", "dictionary"]),
        ("model=resnet21", ["model.name", "resnet21", "Did you mean"]),
        ("model.widht=3", ["model.widht", "Did you mean 'width'"]),
        ("data=cifar11", ["data.name", "cifar11", "Did you mean 'cifar10'"]),
        ("data.validation=1.0", ["data.validation", "1.0"]),
        ("wandb.mode=no", ["wandb.mode", "False", "allowed"]),
        ("prune_at=[rewind] variants=[original,reinit]", ["variants", "reinit", "rewind point"]),
        ("prune_at=[rewind] train.rewind_epoch=0", ["train.rewind_epoch", "0", "between 1 and"]),
        ("just_a_word", ["just_a_word", "key=value"]),
        ("executor=threads", ["executor", "threads", "allowed"]),
        ("devices.per_cell=3", ["train.batch_size", "512", "devices.per_cell=3"]),
        ("devices.per_cell=2 train.eval_batch_size=25", ["train.eval_batch_size", "25", "make it a multiple"]),
        ("devices.per_cell=2 methods.cts.batch_size=7", ["methods.cts.batch_size", "7", "devices.per_cell=2"]),
        ("devices.per_cell=2 methods.snip.micro_batch=5", ["methods.snip.micro_batch", "5", "devices.per_cell=2"]),
        ("devices.per_cell=2 devices.cells_per_gpu=2", ["devices.cells_per_gpu", "2", "set one to 1"]),
        ("devices.per_cell=2 train.pack=4", ["train.pack", "4", "devices.per_cell=2", "set one to 1"]),
        ("train.precision=float16", ["train.precision", "float16", "allowed", "bfloat16"]),
        ("methods.cts.precision=half", ["methods.cts.precision", "half", "allowed", "bfloat16"]),
        ("name=a/b", ["name", "a/b", "letters"]),
    ],
)
def test_a_wrong_experiment_is_one_error_that_names_key_value_and_mend(word, parts):
    with pytest.raises(ConfigError) as error:
        check(make_experiment(BASE, word.split(" ") if "{" not in word else [word]))
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_missing_methods_are_told():
    with pytest.raises(ConfigError, match="methods"):
        make_experiment({"name": "x"})


def test_densities_may_be_powers_of_a_base():
    assert make_experiment(BASE | {"densities": {"base": 0.8, "powers": [2, 4]}}).densities == (0.8**2, 0.8**4)


def test_overrides_reach_every_depth_and_win():
    experiment = make_experiment(
        BASE, ["train.lr=1e-2", "methods.snip.steps=5", "model=resnet20", "model.width=4", "seeds=3"]
    )
    assert experiment.train.lr == 0.01
    assert experiment.methods["snip"] == {"steps": 5}
    assert (experiment.model.name, experiment.model.options) == ("resnet20", {"width": 4})
    assert experiment.seeds == (3,)


def test_what_is_written_reads_back_equal(tmp_path):
    experiment = make_experiment(BASE, ["model.width=4", "methods.ltr.cut=0.5", "variants=[original,invert]"])
    save_experiment(experiment, tmp_path / "e.yaml")
    assert load_experiment(tmp_path / "e.yaml") == experiment
    assert make_experiment(experiment_values(experiment)) == experiment


def test_one_method_may_stand_twice_under_labels_of_its_own():
    methods = {"once": {"method": "snip"}, "often": {"method": "snip", "steps": 9}}
    cells = list(expand(make_experiment({"name": "x", "methods": methods, "densities": [0.1]})))
    assert [cell.method for cell in cells] == ["once", "often"]


def test_the_grid_is_the_product_but_dense_and_random_have_no_variants():
    experiment = make_experiment(
        {"name": "x", "methods": ["dense", "random", "snip"], "densities": [0.1, 0.2], "seeds": [0, 1],
         "variants": ["original", "invert"]}
    )  # fmt: skip
    cells = [(c.method, c.density, c.variant, c.seed) for c in expand(experiment)]
    snip = [("snip", d, v, s) for d in (0.1, 0.2) for v in ("original", "invert") for s in (0, 1)]
    random = [("random", d, "original", s) for d in (0.1, 0.2) for s in (0, 1)]
    assert sorted(cells) == sorted([*snip, *random, *(("dense", 1.0, "original", s) for s in (0, 1))])


def test_a_missing_file_and_a_broken_one_are_told(tmp_path):
    with pytest.raises(ConfigError, match="is not a file"):
        load_experiment(tmp_path / "no.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_experiment(tmp_path / "bad.yaml")


@pytest.mark.parametrize("name", list(pruners))
def test_every_option_of_every_method_says_what_it_means(name):
    assert all(row["meaning"] for row in option_table(pruners[name].options))


@pytest.mark.parametrize("file", sorted(Path("experiments").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_shipped_experiment_is_sound(file):
    experiment = load_experiment(file)
    check(experiment)
    assert {cell.method for cell in expand(experiment)} == set(experiment.methods)


def test_a_batch_is_no_larger_than_the_data_and_must_be_shared_evenly_all_the_same():
    experiment = make_experiment(BASE, ["devices.per_cell=2"])
    methods = read_methods(experiment)
    check_shares(experiment, methods, samples=100)
    check_shares(experiment, methods, samples=513)
    with pytest.raises(ConfigError, match=r"train\.batch_size.*512.*97 training images.*make it smaller"):
        check_shares(experiment, methods, samples=97)


@pytest.mark.parametrize(("word", "value"), [("on", "on"), ("off", "off"), ("auto", "auto"), ("true", "on")])
def test_replay_is_said_in_a_bare_word(word, value, tmp_path):
    """YAML reads a bare ``on`` as true."""
    experiment = make_experiment(BASE, [f"devices.replay={word}"])
    assert experiment.devices.replay == value
    save_experiment(experiment, tmp_path / "e.yaml")
    assert load_experiment(tmp_path / "e.yaml").devices.replay == value
    (tmp_path / "f.yaml").write_text(f"methods: [snip]\ndevices: {{replay: {word}}}\n")
    assert load_experiment(tmp_path / "f.yaml").devices.replay == value


def test_replay_is_one_of_three():
    with pytest.raises(ConfigError, match=r"devices\.replay: 'sometimes'.*auto, on, off"):
        make_experiment(BASE, ["devices.replay=sometimes"])


def test_a_home_is_written_out_wherever_a_place_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    made = make_experiment({"name": "x", "methods": "snip"}, ["output=~/runs/x", "store=~/store", "data.root=~/data"])
    assert made.folder == tmp_path / "runs" / "x"
    assert made.store_location == str(tmp_path / "store")
    assert open_files("~/store").location == str(tmp_path / "store")
    assert data_root(made.data.options["root"]) == tmp_path / "data"
    assert make_experiment({"name": "x", "methods": "snip"}, ["output=~/y"]).store_location == str(
        tmp_path / "y/store"
    )
    far = make_experiment({"name": "x", "methods": "snip"}, ["store=memory://~/x"])
    assert far.store_location == "memory://~/x"
    save_experiment(made, tmp_path / "e.yaml")
    assert load_experiment("~/e.yaml") == made


@pytest.mark.parametrize("key", ["output", "store", "data.root"])
def test_the_home_of_nobody_is_refused(key):
    with pytest.raises(ConfigError, match=rf"{key}: '~nobody-at-all/x' cannot be found"):
        make_experiment({"name": "x", "methods": "snip"}, [f"{key}=~nobody-at-all/x"])


@pytest.mark.parametrize("word", ["a/b", "a\\b", "a#b", "'a?b'", "a%b", "'a:b'", "''", "'  '", "x" * 129])
@pytest.mark.parametrize("key", ["project", "entity"])
def test_what_wandb_takes_for_no_name_is_refused_before_anything_runs(key, word):
    with pytest.raises(ConfigError, match=rf"wandb\.{key}: .*W&B"):
        make_experiment({"name": "x", "methods": "snip"}, [f"wandb.{key}={word}"])
    make_experiment({"name": "x", "methods": "snip"}, ["wandb.project=Some name-1_2.3", "wandb.entity=us"])


@pytest.mark.parametrize(
    "densities",
    [[np.float32(0.25)], np.float64(0.25), np.array([0.25]), torch.tensor([0.25]), torch.tensor(0.25),
     (Fraction(1, 4),), [Decimal("0.25")]],
)  # fmt: skip
def test_numbers_may_be_of_numpy_torch_and_the_standard_library(densities, tmp_path):
    made = make_experiment({"name": "x", "methods": "snip", "densities": densities, "output": tmp_path})
    assert made.densities == (0.25,) and type(made.densities[0]) is float
    seeds = make_experiment({"name": "x", "methods": "snip", "seeds": np.arange(3)}).seeds
    assert seeds == (0, 1, 2)


def test_what_no_experiment_can_hold_is_one_clear_error():
    with pytest.raises(ConfigError, match=r"densities.*is not a supported primitive type"):
        make_experiment({"name": "x", "methods": "snip", "densities": [object()]})
