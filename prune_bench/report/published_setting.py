"""What the published tables of 2512.07142 were measured with, and in what a run differs from that, in words.

``docs/published.md`` says where each value comes from. What has no option here is in :data:`LEFT_OVER`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from prune_bench.config import Recipe
from prune_bench.recipes import CONCRETE, MODELS, TABLES_LR, TRAIN, tables_decay
from prune_bench.sweep.run_folder import DATA_PLACES

LEFT_OVER = (
    "what the published runs have and these cannot: a 98th step an epoch of 336 images, torch's classifier bias, "
    "float16 passes, masks of int(density x N) weights and more at ties (docs/published.md)"
)
_NOT_A_DIFFERENCE = ("rewind_epoch", "pack", "precision")  # matched, of no effect, told in a note
_UNKNOWN = "unknown to the published tables"
_WIDTHS = {"resnet20": 16, "vgg16": 64}
_MODEL_DEFAULTS = {"shortcut": "conv1", "last_pool": True, "prune_classifier": True}
_LATER_DEFAULTS: dict[str, Any] = {
    "draws": 1, "multiplier": "clamped", "feature_correction": 0, "gradient_over": "prunable",
}  # fmt: skip
_OTHERS: dict[str, dict[str, Any]] = {
    "snip": {"samples_per_class": 10, "steps": 1, "accumulate": "signed", "micro_batch": None},
    "grasp": {"samples_per_class": 10, "temperature": 200.0, "micro_batch": None},
    "synflow": {"steps": 100},
    "ltr": {"cut": 0.2, "epochs": None},
    "magnitude": {},
    "random": {},
    "dense": {},
}
"""What the published runs used, of the options that our methods have, for each method but the concrete searches."""
_TOLD_APART = ("objective", "control", "epochs", "by_magnitude", "precision")
"""Options by which a published row is chosen, or which its note names."""
_EARLY, _LATE = {"resnet20": 3, "vgg16": 5}, {"resnet20": 9, "vgg16": 15}


def recipe_differences(experiment: Mapping[str, Any]) -> str:
    """In what networks are made and trained otherwise than the published ones; empty if in nothing.

    Args:
        experiment: As plain values.
    """
    wrong = _train(experiment.get("train", {})) + _data(experiment.get("data", {}))
    wrong += _model(experiment.get("model", {}))
    return "the recipe differs: " + ", ".join(wrong) if wrong else ""


def option_differences(method: str, options: Mapping[str, Any], *, headline: bool = False) -> str:
    """In what a method's options differ from the published ones; empty if in nothing, or if there is no such method.

    Args:
        method: Its name in the registry.
        options: Its own, as a result records them.
        headline: Whether it is the paper's headline that is asked for, which later code made, and not the tables.
    """
    if method not in (*CONCRETE, *_OTHERS):
        return ""
    known = concrete_options(options, headline=headline) if method in CONCRETE else _OTHERS[method]
    full = {**{name: value for name, value in _LATER_DEFAULTS.items() if name in known}, **options}
    wrong = [
        f"{name}={full[name]} (published: {value})"
        for name, value in known.items()
        if name in full and not _same(full[name], value)
    ]
    named = (*known, *_TOLD_APART, *(_LATER_DEFAULTS if method in CONCRETE else ()))
    wrong += [f"{name}={options[name]} ({_UNKNOWN})" for name in options if name not in named]
    return "its options differ: " + ", ".join(wrong) if wrong else ""


def concrete_options(options: Mapping[str, Any], *, headline: bool = False) -> dict[str, Any]:
    """What the published concrete search of this length, control and objective has for the other options."""
    epochs = options.get("epochs", 20)
    known: dict[str, Any] = {
        "steps": None, "batch_size": 512, "temperature": 2 / 3, "scale": None, "draws": 4,
        "lr": 0.1 if headline else TABLES_LR,
        "decay_at": (0.8 if epochs == 20 else 139 / 160) if headline else tables_decay(epochs),
    }  # fmt: skip
    if options.get("control") == "lagrange":
        known["multiplier"] = "free"
    if options.get("objective") == "feature_mse":
        known["feature_correction"] = 1
    if options.get("objective") == "gradient_norm":
        known["gradient_over"] = "all"
    return known


def published_point(method: str, model: str, epoch: int | None) -> tuple[str, str]:
    """The tables' name of a rewind point, and why there is none.

    Saliency methods and LTR were rewound early; LTR, under another name, and concrete searches late.
    """
    early, late = _EARLY.get(model), _LATE.get(model)
    if method == "ltr":
        point = {early: "rewind", late: "late_rewind"}.get(epoch, "")
        return point, "" if point else f"LTR was published rewound to epochs {early} and {late}, not {epoch}"
    published = late if method in CONCRETE else early
    return "rewind", "" if epoch == published else f"rewound to epoch {epoch} (published: {published})"


def _train(train: Mapping[str, Any]) -> list[str]:
    defaults = asdict(Recipe())
    wrong = []
    for key, value in {**defaults, **train}.items():
        if key in _NOT_A_DIFFERENCE or (key == "eval_batch_size" and value >= TRAIN["norm_batch"]):
            continue  # of larger evaluation batches, statistics are of pieces
        if key in TRAIN and not _same(value, TRAIN[key]):
            wrong.append(f"train.{key}={_plain(value)} (published: {TRAIN[key]})")
        elif key not in TRAIN and (key not in defaults or not _same(value, defaults[key])):
            wrong.append(f"train.{key}={value} ({_UNKNOWN})")
    return wrong


def _data(data: Mapping[str, Any]) -> list[str]:
    augment = data.get("augment", True)
    wrong = [] if augment is True else [f"data.augment={augment} (published: True)"]
    others = sorted(set(data) - {"name", "validation", "augment", *DATA_PLACES})
    wrong += [f"data.{key}={data[key]} ({_UNKNOWN})" for key in others]
    if float(data.get("validation", 0.1)) != 0:
        wrong.append("data.validation is not 0 (published: trained on all images)")
    return wrong


def _model(model: Mapping[str, Any]) -> list[str]:
    name = str(model.get("name", ""))
    wanted = {"width": _WIDTHS.get(name), **MODELS.get(name, {})}
    full = {key: model.get(key, _MODEL_DEFAULTS.get(key, value)) for key, value in wanted.items()}
    wrong = [f"model.{key}={full[key]} (published: {value})" for key, value in wanted.items() if full[key] != value]
    return wrong + [f"model.{key}={model[key]} ({_UNKNOWN})" for key in sorted(set(model) - {"name", *wanted})]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other)
    return bool(_plain(one) == _plain(other))
