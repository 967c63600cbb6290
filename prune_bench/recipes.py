"""Named recipes: what a published comparison was made with, laid under the values that an experiment gives itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TABLES_DECAY = 119
"""Epoch of a search after which the code behind the published tables lowers Adam's rate, however long the search."""
TABLES_LR = 0.15
"""Adam's rate there, in logits: it moves temperature x logit by 0.1."""
TRAIN: dict[str, Any] = {
    "epochs": 160, "batch_size": 512, "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3, "milestones": [79, 119],
    "lr_decay": 0.1, "clip_norm": 2.0, "clip_over": "all", "loss_reduction": "sum", "norm_batch": 128,
    "eval_batch_size": 512,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    **{f"resnet{depth}": {"shortcut": "conv3"} for depth in (8, 20, 32, 56)},
    **{f"vgg{depth}": {"last_pool": False, "prune_classifier": False} for depth in (11, 16, 19)},
}
_SEARCH: dict[str, Any] = {
    "lr": TABLES_LR, "draws": 4, "multiplier": "free", "feature_correction": 1, "gradient_over": "all",
}  # fmt: skip
CONCRETE = ("cts", "cts_kl")


def tables_decay(epochs: int) -> float:
    """Part of a search of so many epochs after which the rate is a tenth; 1 for never."""
    return TABLES_DECAY / epochs if epochs > TABLES_DECAY else 1.0


def lay_under(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an experiment, and those of the recipe that they name where they give none themselves.

    Args:
        values: An experiment as plain values, short spellings written out.
    """
    if values.get("recipe") != "cts_2025":
        return dict(values)
    model, data = values["model"], values["data"]
    name = str(model.get("name", "")) if isinstance(model, Mapping) else ""
    rewind = 15 if name.startswith("vgg") else 9
    return {
        **values,
        "train": _under({**TRAIN, "rewind_epoch": rewind}, values.get("train", {})),
        "model": _under(MODELS.get(name, {}), model),
        "data": _under({"validation": 0.0}, data),
        "methods": _methods(values.get("methods", {})),
    }


def _methods(methods: Any) -> Any:
    if not isinstance(methods, Mapping):
        return methods
    return {label: _search(label, options) for label, options in methods.items()}


def _search(label: str, options: Any) -> Any:
    if not isinstance(options, Mapping) or options.get("method", label) not in CONCRETE:
        return options
    epochs = options.get("epochs", 20)
    decay = {"decay_at": tables_decay(epochs)} if isinstance(epochs, int) else {}
    return _under({**_SEARCH, **decay}, options)


def _under(defaults: Mapping[str, Any], values: Any) -> Any:
    return {**defaults, **values} if isinstance(values, Mapping) else values
