"""What an experiment's keys must be to each other: checked when it is read, before anything runs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from prune_bench.errors import ConfigError
from prune_bench.places import expanded
from prune_bench.untrusted import is_plain

if TYPE_CHECKING:
    from prune_bench.config import Experiment

_NAME = 255


_NOT_IN_PROJECTS = "/\\#?%:"
_LONGEST_PROJECT = 128


def check_experiment(experiment: Experiment) -> None:
    """Raises what is wrong with it.

    Raises:
        ConfigError: A list is empty or repeats itself, or two keys contradict each other.
    """
    for key in ("prune_at", "methods", "densities", "variants", "seeds"):
        values = list(getattr(experiment, key))
        if not values:
            raise ConfigError(key, values, "is empty: nothing would run; name at least one")
        if repeated := sorted({v for v in values if values.count(v) > 1}):
            raise ConfigError(key, repeated[0], "stands there more than once: name each once")
    recipe = experiment.train
    if "rewind" in experiment.prune_at and not 0 < recipe.rewind_epoch < recipe.epochs:
        raise ConfigError(
            "train.rewind_epoch",
            recipe.rewind_epoch,
            f"must lie between 1 and {recipe.epochs - 1} to rewind to it",
        )
    if "rewind" in experiment.prune_at and "reinit" in experiment.variants:
        raise ConfigError(
            "variants", "reinit", "has no meaning at a rewind point, where fresh weights would undo the dense "
            "training: use prune_at: [init], or leave reinit out", allowed=("original", "layer_shuffle", "invert"),
        )  # fmt: skip
    _check_devices(experiment)
    _check_places(experiment)
    _check_words(experiment)


def _check_words(experiment: Experiment) -> None:
    """What becomes a name in folders, tables and W&B must be one there."""
    if not re.fullmatch(r"(?!\.+$)[\w.-]+", experiment.name):
        raise ConfigError(
            "name", experiment.name,
            "may hold letters, digits, '.', '_' and '-' only, and not dots alone: it names a folder",
        )  # fmt: skip
    for key, value in _strings(asdict(experiment), ""):
        if not is_plain(value):
            raise ConfigError(
                key, value, "holds a control character or half a letter, which no file or table can show"
            )
    if any(len(os.fsencode(part)) > _NAME for part in experiment.folder.parts):
        raise ConfigError("output", str(experiment.folder), f"is too long: no folder's name has over {_NAME} bytes")
    if "" in experiment.methods:
        raise ConfigError("methods", "", "is no name for a method")
    if experiment.wandb.mode != "disabled":
        check_wandb_name("wandb.project", experiment.wandb.project)
        if experiment.wandb.entity is not None:
            check_wandb_name("wandb.entity", experiment.wandb.entity)


def _strings(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every string, and every name of an option, with where it stands."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield key or str(name), str(name)
            yield from _strings(part, f"{key}.{name}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _strings(part, key)


def check_precision(experiment: Experiment, without: Callable[[], list[str]]) -> None:
    """Checks that bfloat16, where it is asked for, is something that the GPUs have.

    Args:
        experiment: What is asked for.
        without: Gives the GPUs that have none; called only if the experiment asks for bfloat16.

    Raises:
        ConfigError: It is asked of one that has none.
    """
    said: dict[str, object] = {"train.precision": experiment.train.precision}
    said |= {f"methods.{label}.precision": options.get("precision") for label, options in experiment.methods.items()}
    asking = [key for key, value in said.items() if value == "bfloat16"]
    if asking and (lacking := without()):
        words = (
            f"is slower than float32 on {', '.join(lacking)}, which has no bfloat16 (compute capability below 8.0)"
        )
        raise ConfigError(asking[0], "bfloat16", f"{words}: take float32, or hide it with CUDA_VISIBLE_DEVICES")


def _check_places(experiment: Experiment) -> None:
    places = {
        "output": experiment.output,
        "store": experiment.store,
        "data.root": experiment.data.options.get("root"),
    }
    for key, place in places.items():
        try:
            expanded(str(place or ""))
        except RuntimeError as error:
            raise ConfigError(key, place, f"cannot be found: {error}; write the path out") from None


def check_wandb_name(key: str, name: str) -> None:
    """Raises what W&B would not take as the name of a project or an entity: runs would never arrive.

    Raises:
        ConfigError: It is empty or too long, or has a character that is not allowed.
    """
    if odd := sorted(set(name) & set(_NOT_IN_PROJECTS)):
        said = f"has {' '.join(odd)}, and W&B allows none of {' '.join(_NOT_IN_PROJECTS)} there: leave it out"
        raise ConfigError(key, name, said)
    if not name.strip() or len(name) > _LONGEST_PROJECT:
        raise ConfigError(key, name, f"must have 1 to {_LONGEST_PROJECT} characters for W&B")


def _check_devices(experiment: Experiment) -> None:
    devices, pack = experiment.devices, experiment.train.pack
    if devices.per_cell == 1:
        return
    spread = f"puts small networks together, and devices.per_cell={devices.per_cell} spreads large ones: set one to 1"
    if devices.cells_per_gpu > 1:
        raise ConfigError("devices.cells_per_gpu", devices.cells_per_gpu, spread)
    if pack not in ("auto", 1):
        raise ConfigError("train.pack", pack, spread)
    if experiment.train.norm_batch is not None:
        words = f"takes statistics of pieces of a batch, and devices.per_cell={devices.per_cell} shares batches: set"
        raise ConfigError("train.norm_batch", experiment.train.norm_batch, f"{words} one to its default")
