"""Keys and sharing: what is the same is computed once, and what differs never passes for the same."""

import hashlib
from collections import Counter
from dataclasses import fields, replace

import pytest

from prune_bench.config import Recipe, make_experiment
from prune_bench.data import load_data
from prune_bench.models import models
from prune_bench.pruners import pruners
from prune_bench.sweep.planner import make_plan
from prune_bench.sweep.stages import VERSIONS

BASE = {
    "name": "x",
    "methods": ["dense", "random_erk", "snip", "ltr", "cts"],
    "densities": [0.5, 0.1],
    "variants": ["original", "layer_shuffle", "reinit"],
    "seeds": [0, 1],
}


def plan(*overrides, **values):
    experiment = make_experiment(BASE | values, overrides)
    data = {s: load_data(experiment.data.name, experiment.data.options, s) for s in experiment.seeds}
    return make_plan(experiment, data)


def counts(p):
    return Counter(stage.kind for stage in p.stages.values())


def test_the_plan_counts_what_a_brute_force_enumeration_counts():
    p = plan()
    ordered, seeds = ["snip", "ltr", "cts"], [0, 1]
    cells = [("dense", 1.0, "original", s) for s in seeds] + [
        ("random_erk", d, "original", s) for d in (0.5, 0.1) for s in seeds
    ]
    cells += [(m, d, v, s) for m in ordered for d in (0.5, 0.1) for v in BASE["variants"] for s in seeds]
    grid = [0.8**j for j in range(1, 40)]
    searches = set()
    for method, density, _, seed in cells:
        if method in ("dense", "snip"):
            searches.add((method, seed))
        elif method == "ltr":
            searches |= {(method, level, seed) for level in [g for g in grid if g > density] + [density]}
        else:
            searches.add((method, density, seed))
    assert len(p.cells) == len(cells) == len(set(p.cells.values()))
    assert counts(p) == {
        "state": 2 * 2,  # the initial weights and the fresh ones of reinit
        "ranking": len(searches),
        "ticket": len(cells),
        "training": len(cells),
        "result": len(cells),
    }


def test_every_stage_stands_after_its_inputs():
    seen = set()
    for key, stage in plan().stages.items():
        assert set(stage.inputs.values()) <= seen
        seen.add(key)


@pytest.mark.parametrize(
    "word",
    [
        "devices.threads=2",
        "devices.per_cell=2",
        "limits.checkpoint_seconds=1.0",
        "executor=inline",
        "output=/elsewhere",
        "wandb.project=other",
        "name=y",
        "train.rewind_epoch=3",
        "train.pack=1",
        "train.precision=float32",
        "train.clip_over=kept",
        "train.clip={norm: 2.0, over: kept}",
        "train.loss_reduction=mean",
        "train.norm_batch=null",
        "model.shortcut=conv1",
        "methods.cts.draws=1",
        "methods.cts.multiplier=clamped",
        "methods.cts.feature_correction=0",
        "methods.cts.gradient_over=prunable",
        "recipe=none",
    ],
)
def test_what_changes_no_outcome_changes_no_key(word):
    assert set(plan(word).cells.values()) == set(plan().cells.values())


@pytest.mark.parametrize(
    "word",
    [
        "train.lr=0.2",
        "train.epochs=3",
        "train.precision=bfloat16",
        "model.width=4",
        "data.validation=0.2",
        "train.eval_batch_size=7",
        "train.clip_over=all",
        "train.clip={norm: 1.0}",
        "train.loss_reduction=sum",
        "train.norm_batch=16",
        "model.shortcut=conv3",
        "model.shortcut=pad",
        "recipe=cts_2025",
    ],
)
def test_what_changes_outcomes_changes_every_result(word):
    assert not set(plan(word).cells.values()) & set(plan().cells.values())


def test_options_that_came_later_are_in_no_key_at_their_default():
    """What was computed before they came is found again."""
    defaults = {
        "train": Recipe, "resnet8": models["resnet8"].options, "vgg16": models["vgg16"].options,
        **{name: entry.options for name, entry in pruners.items()},
    }  # fmt: skip
    new = {f.name for options in defaults.values() for f in fields(options) if f.metadata.get("later")}
    assert {"clip_over", "loss_reduction", "norm_batch", "shortcut", "last_pool", "draws"} <= new
    for p in (plan(), plan("model=vgg16")):
        assert not any(f"'{name}'" in str(stage.spec) for stage in p.stages.values() for name in new)


def test_keys_are_those_of_the_results_there_are():
    """Pinned when options began to come later; a key that changes on purpose has its digits changed here."""
    digits = hashlib.sha256("\n".join(sorted(plan().stages)).encode()).hexdigest()
    assert digits[:16] == "aebea8eb6449f41b"


def test_the_precision_of_a_search_is_in_its_key_and_no_precision_in_what_was_computed_before_there_was_one():
    old, new = plan(), plan("methods.cts.precision=bfloat16")
    assert {c.method for c, key in old.cells.items() if new.cells[c] != key} == {"cts"}
    assert not any("precision" in str(stage.spec) for stage in old.stages.values())


def test_a_methods_option_changes_its_own_results_only():
    old, new = plan(), plan("methods.snip.samples_per_class=3")
    changed = {c.method for c, key in old.cells.items() if new.cells[c] != key}
    assert changed == {"snip"}


def test_more_densities_keep_what_was_found_for_fewer():
    old, new = plan(), plan("densities=[0.5,0.1,0.05]")
    assert set(old.stages) <= set(new.stages)


def test_a_kinds_version_is_in_its_key(monkeypatch):
    stage = next(iter(plan().stages.values()))
    before = stage.key
    monkeypatch.setitem(VERSIONS, stage.kind, VERSIONS[stage.kind] + 1)
    assert replace(stage).key != before


def test_rewind_states_are_shared_and_trained_from_the_initial_ones():
    p = plan("prune_at=[init,rewind]", "variants=[original]", "train.rewind_epoch=2")
    states = [stage for stage in p.stages.values() if stage.kind == "state"]
    assert sorted((s.spec["epoch"], s.spec["seed"]) for s in states) == [(0, 0), (0, 1), (2, 0), (2, 1)]
