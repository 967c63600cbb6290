"""An experiment at toy size: every part of it runs, nothing of it takes long."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from prune_bench.config import Experiment
from prune_bench.sweep.cells import read_methods

_STEPS, _EPOCHS = 20, 2


def toy_size(experiment: Experiment) -> Experiment:
    """One seed, the densest and the sparsest density, two epochs, short searches.

    Results are no comparison of anything; the run's folder has ``-fast`` at its end.
    """
    train = experiment.train
    short = replace(
        train,
        epochs=_EPOCHS,
        milestones=(1,),
        rewind_epoch=min(train.rewind_epoch, 1),
        batch_size=min(train.batch_size, 128),
    )
    return replace(
        experiment,
        name=f"{experiment.name}-fast",
        output=f"{experiment.folder}-fast",
        train=short,
        methods={label: _short(label, options, experiment) for label, options in experiment.methods.items()},
        densities=tuple(dict.fromkeys((max(experiment.densities), min(experiment.densities)))),
        seeds=experiment.seeds[:1],
    )


def _short(label: str, options: dict[str, Any], experiment: Experiment) -> dict[str, Any]:
    """Options that say how long a search is, cut; names and values of others stay."""
    full = read_methods(experiment)[label].options
    cuts: dict[str, Any] = {}
    for field in fields(full):
        value = getattr(full, field.name)
        if field.name == "steps" and (value is None or value > _STEPS):
            cuts["steps"] = _STEPS
        elif field.name == "batch_size":
            cuts["batch_size"] = min(value, 128)
    return {**options, **cuts}
