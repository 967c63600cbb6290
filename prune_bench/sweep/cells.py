"""Cells: what an experiment asks for, one by one, every name and option checked before anything runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prune_bench.config import Choice, Experiment, PruneAt, Variant
from prune_bench.data import datasets
from prune_bench.errors import ConfigError
from prune_bench.models import models
from prune_bench.options import key_values, read_options
from prune_bench.pruners import Pruner, pruners
from prune_bench.registry import Registry

CHOICES = ("method", "density", "variant", "seed", "prune_at")
"""What tells the cells of an experiment apart."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method as an experiment uses it.

    Attributes:
        label: What the tables call it.
        name: What the registry calls it.
        options: An instance of its options dataclass.
    """

    label: str
    name: str
    options: Any

    @property
    def pruner(self) -> type[Pruner]:
        """Its class."""
        return pruners[self.name].build


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One line of the results: what is compared with what."""

    model: str
    data: str
    prune_at: PruneAt
    method: str
    density: float
    variant: Variant
    seed: int

    def __str__(self) -> str:
        at = "" if self.prune_at == "init" else f" at {self.prune_at}"
        variant = "" if self.variant == "original" else f" {self.variant}"
        return f"{self.method}{at} {self.density:.4g}{variant} seed {self.seed}"


def read_methods(experiment: Experiment) -> dict[str, Method]:
    """The experiment's methods by label, their options checked.

    Raises:
        ConfigError: A method is unknown, an option is, or it cannot prune where it is asked to.
    """
    methods = {}
    for label, options in experiment.methods.items():
        key = f"methods.{label}"
        entry = pruners.find(options.get("method", label), f"{key}.method" if "method" in options else "methods")
        values = {name: value for name, value in options.items() if name != "method"}
        for point in experiment.prune_at:
            if point not in entry.build.prune_at:
                raise ConfigError(
                    "prune_at", point, f"is no place for {label} to prune", allowed=entry.build.prune_at
                )
        methods[label] = Method(label=label, name=entry.name, options=read_options(entry.options, values, key))
    return methods


def read_choice(registry: Registry[Any], choice: Choice, key: str) -> dict[str, Any]:
    """A model's or data set's name and its options with their defaults, as the plain values of a key.

    Raises:
        ConfigError: The name or an option is unknown.
    """
    entry = registry.find(choice.name, f"{key}.name")
    return {"name": choice.name, "options": key_values(read_options(entry.options, choice.options, key))}


def check(experiment: Experiment) -> None:
    """Checks the experiment against the registries.

    Raises:
        ConfigError: A name or an option is unknown, or a method cannot do what is asked.
    """
    read_choice(models, experiment.model, "model")
    read_choice(datasets, experiment.data, "data")
    check_shares(experiment, read_methods(experiment))


def check_shares(experiment: Experiment, methods: Mapping[str, Method], samples: int | None = None) -> None:
    """Checks that the devices of a cell can share each batch evenly.

    Args:
        experiment: What is asked for.
        methods: Its methods, by label.
        samples: Training images there are, where that is known: a batch has no more.

    Raises:
        ConfigError: One cannot be, or the draws of a search cannot.
    """
    together, train = experiment.devices.per_cell, experiment.train
    for label, method in methods.items():
        _check_draws(label, method.options, together)
    sizes = {f"train.{name}": getattr(train, name) for name in ("batch_size", "eval_batch_size")}
    for label, method in methods.items():
        own = {name: getattr(method.options, name, None) for name in ("batch_size", "micro_batch")}
        sizes |= {f"methods.{label}.{name}": size for name, size in own.items() if size is not None}
    for key, size in sizes.items():
        if size % together:
            words = f"cannot be shared evenly by devices.per_cell={together}: make it a multiple"
            raise ConfigError(key, size, words)
        if samples is not None and key.endswith(".batch_size") and size > samples and samples % together:
            words = f"is more than the {samples} training images there are, which cannot be shared evenly by"
            raise ConfigError(key, size, f"{words} devices.per_cell={together}: make it smaller")


def _check_draws(label: str, options: Any, together: int) -> None:
    draws, key = getattr(options, "draws", 1), f"methods.{label}.draws"
    if draws > 1 and options.batch_size % draws:
        raise ConfigError(key, draws, f"does not divide batch_size={options.batch_size}: each draw has an equal part")
    if draws > 1 and together > 1:
        raise ConfigError(key, draws, f"and devices.per_cell={together} both part a batch: set one to 1")


def expand(experiment: Experiment) -> Iterator[Cell]:
    """The experiment's cells.

    A method with one possible density has one cell a seed, and one whose choice is random has no variants: its
    shuffle would be another draw of the same.
    """
    for label, method in read_methods(experiment).items():
        only = method.pruner.only_density
        for point in experiment.prune_at:
            for density in experiment.densities if only is None else (only,):
                for variant in experiment.variants if method.pruner.ordered else ("original",):
                    for seed in experiment.seeds:
                        yield Cell(
                            model=experiment.model.name,
                            data=experiment.data.name,
                            prune_at=point,
                            method=label,
                            density=density,
                            variant=variant,  # type: ignore[arg-type]
                            seed=seed,
                        )


def cell_name(cell: Cell) -> str:
    """A cell in words that say all of it."""
    return f"{cell.method} {cell.density:.6g} {cell.variant} seed {cell.seed} at {cell.prune_at}"


def choose(experiment: Experiment, words: Sequence[str]) -> list[Cell]:
    """The experiment's cells of which all words are true.

    Args:
        experiment: What is asked for.
        words: ``method=cts``, ``density=0.02`` and so on, or ``cell=`` with a :func:`cell_name`.

    Raises:
        ConfigError: The experiment has no such cell.
    """
    cells = list(expand(experiment))
    for word in words:
        key, _, value = word.partition("=")
        there = {cell_name(cell) if key == "cell" else getattr(cell, key): None for cell in cells}
        cells = [cell for cell in cells if _is(cell_name(cell) if key == "cell" else getattr(cell, key), value)]
        if not cells:
            raise ConfigError(key, value, f"is no cell of {experiment.name}: {' '.join(words)}", allowed=there)
    return cells


def _is(value: str | float, word: str) -> bool:
    if isinstance(value, str):
        return value == word
    try:
        return math.isclose(value, float(word), rel_tol=1e-6)  # a density may have been through JSON
    except ValueError:
        return False
