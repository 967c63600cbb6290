"""What an experiment's keys must be to each other: checked when it is read, before anything runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from prune_bench.errors import ConfigError

if TYPE_CHECKING:
    from prune_bench.config import Experiment


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
    if not re.fullmatch(r"[\w.-]+", experiment.name):
        raise ConfigError(
            "name", experiment.name, "may hold letters, digits, '.', '_' and '-' only: it names a folder"
        )


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
