"""A named recipe fills in what an experiment leaves out, and nothing that it says."""

import pytest

from prune_bench.config import Recipe, load_experiment, make_experiment, save_experiment
from prune_bench.errors import ConfigError
from prune_bench.sweep.cells import check, read_methods

BASE = {"name": "x", "model": "resnet20", "recipe": "cts_2025", "methods": ["snip", "cts"]}


def test_the_published_setting_is_set_whole():
    experiment = make_experiment(BASE | {"data": "synthetic"})
    train = experiment.train
    assert (train.loss_reduction, train.clip_norm, train.clip_over, train.norm_batch) == ("sum", 2.0, "all", 128)
    assert (train.epochs, train.batch_size, train.lr, train.momentum, train.weight_decay) == (
        160,
        512,
        0.1,
        0.9,
        1e-3,
    )
    assert train.milestones == (79, 119) and train.rewind_epoch == 9
    assert experiment.model.options == {"shortcut": "conv3"} and experiment.data.options == {"validation": 0.0}
    options = read_methods(experiment)["cts"].options
    assert (options.lr, options.draws, options.decay_at, options.multiplier) == (0.15, 4, 1.0, "free")
    assert (options.feature_correction, options.gradient_over) == (1, "all")
    assert experiment.methods["snip"] == {}
    check(experiment)


def test_a_vgg_has_its_own_network_and_rewind_epoch():
    experiment = make_experiment(BASE, ["model=vgg16"])
    assert experiment.model.options == {"last_pool": False, "prune_classifier": False}
    assert experiment.train.rewind_epoch == 15


@pytest.mark.parametrize(("epochs", "decay"), [(20, 1.0), (119, 1.0), (160, 119 / 160)])
def test_a_search_slows_down_at_one_epoch_however_long_it_is(epochs, decay):
    methods = {"mine": {"method": "cts_kl", "epochs": epochs}}
    assert read_methods(make_experiment(BASE | {"methods": methods}))["mine"].options.decay_at == decay


def test_what_an_experiment_says_itself_stays():
    words = ["train.clip.over=kept", "model.shortcut=pad", "methods.cts.draws=2", "train.rewind_epoch=3"]
    experiment = make_experiment(BASE, words)
    assert (experiment.train.clip_over, experiment.train.clip_norm) == ("kept", 2.0)
    assert (experiment.train.rewind_epoch, experiment.model.options["shortcut"]) == (3, "pad")
    options = read_methods(experiment)["cts"].options
    assert (options.draws, options.lr) == (2, 0.15)


def test_without_a_recipe_nothing_is_filled_in():
    experiment = make_experiment({**BASE, "recipe": "none"})
    assert experiment.train == Recipe() and experiment.model.options == {} and experiment.methods["cts"] == {}


def test_a_saved_experiment_is_read_back_equal(tmp_path):
    experiment = make_experiment(BASE)
    save_experiment(experiment, tmp_path / "e.yaml")
    assert load_experiment(tmp_path / "e.yaml") == experiment


def test_an_unknown_recipe_is_told_with_those_there_are():
    with pytest.raises(ConfigError, match=r"recipe: 'cts_2024'.*cts_2025"):
        make_experiment(BASE, ["recipe=cts_2024"])


@pytest.mark.parametrize("word", ["train.clip={norm: 1.5, over: all}", "train.clip.over=all"])
def test_clipping_can_be_written_as_one(word):
    experiment = make_experiment({"name": "x", "methods": ["snip"]}, [word])
    assert experiment.train.clip_over == "all"
    assert experiment.train.clip_norm == (1.5 if "norm" in word else 2.0)
    with pytest.raises(ConfigError, match=r"train\.clip_ovre.*clip_over"):
        make_experiment({"name": "x", "methods": ["snip"]}, ["train.clip.ovre=all"])


@pytest.mark.parametrize("name", ["resnet20", "vgg16"])
def test_the_shipped_files_are_the_published_setting(name):
    experiment = load_experiment(f"experiments/cts_2025_{name}.yaml")
    assert experiment.recipe == "cts_2025" and experiment.train.clip_over == "all"
    methods = read_methods(experiment)
    assert {methods[label].options.lr for label in ("cts", "cts_long", "cts_forward_kl")} == {0.15}
    assert (methods["cts_kl"].options.lr, methods["cts_kl"].options.decay_at) == (0.1, 0.8)
    sane = load_experiment(f"experiments/{name}_cifar10.yaml")
    assert sane.recipe == "none" and sane.train == Recipe(rewind_epoch=sane.train.rewind_epoch)
