"""From an experiment to its plan: every piece of work that cells have in common stands in it once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prune_bench.config import Experiment, PruneAt
from prune_bench.data import datasets
from prune_bench.data.protocol import DataSet
from prune_bench.models import models
from prune_bench.options import key_values
from prune_bench.sweep.cells import Cell, Method, expand, read_choice, read_methods
from prune_bench.sweep.stages import Kind, Plan, Stage


def make_plan(experiment: Experiment, data: Mapping[int, DataSet]) -> Plan:
    """Expands the experiment and shares what cells have in common.

    Args:
        experiment: What is asked for.
        data: For each seed its data set; looked at for its fingerprint and size only.
    """
    planner = _Planner(experiment, data)
    cells = {cell: planner.result(cell) for cell in expand(experiment)}
    return Plan(cells, planner.stages)


class _Planner:
    """Builds stages, each once, and answers with their keys."""

    def __init__(self, experiment: Experiment, data: Mapping[int, DataSet]) -> None:
        self._experiment, self._data = experiment, data
        self._methods = read_methods(experiment)
        self._options = {label: key_values(method.options) for label, method in self._methods.items()}
        self._model = read_choice(models, experiment.model, "model")
        choice = read_choice(datasets, experiment.data, "data")
        options = dict(choice["options"])
        # Where data lies and who loads it changes no result.
        self._where = {name: options.pop(name) for name in ("root", "workers") if name in options}
        self._common = {
            seed: {"seed": seed, "model": self._model,
                   "data": {"name": choice["name"], "options": options, "fingerprint": own.fingerprint}}
            for seed, own in data.items()
        }  # fmt: skip
        recipe = key_values(experiment.train)
        # Where a state lies is in its own spec; a ticket at init must not hang on it. Nor on who is its neighbour.
        del recipe["rewind_epoch"], recipe["pack"]
        self._recipe = recipe
        # Of a large grid most cells ask for the same few states and searches.
        self._known: dict[tuple[Any, ...], str] = {}
        self.stages: dict[str, Stage] = {}

    def result(self, cell: Cell) -> str:
        method, label = self._methods[cell.method], str(cell)
        state = self._state(cell.seed, self._epoch(cell.prune_at), "init")
        ranking = self._ranking(method, cell.prune_at, cell.density, cell.seed, state)
        ticket = self._make(
            "ticket", label, {"density": cell.density, "variant": cell.variant}, cell.seed,
            inputs={"ranking": ranking, "state": state}, method=cell.method,
        )  # fmt: skip
        start = self._state(cell.seed, 0, "reinit") if cell.variant == "reinit" else state
        training = self._make(
            "training", label, {"recipe": self._recipe}, cell.seed, inputs={"ticket": ticket, "state": start},
            cost=float(self._experiment.train.epochs - self._epoch(cell.prune_at)), method=cell.method,
            alike=f"{cell.method} at {cell.prune_at}", step_images=self._experiment.train.batch_size,
        )  # fmt: skip
        said = {"cell": dict(vars(cell)), "method": method.name, "options": self._options[cell.method]}
        inputs = {"ranking": ranking, "ticket": ticket, "training": training}
        return self._make("result", label, said, cell.seed, inputs=inputs, method=cell.method)

    def _epoch(self, prune_at: PruneAt) -> int:
        return self._experiment.train.rewind_epoch if prune_at == "rewind" else 0

    def _state(self, seed: int, epoch: int, purpose: str) -> str:
        if (known := self._known.get((seed, epoch, purpose))) is not None:
            return known
        spec: dict[str, Any] = {"epoch": epoch, "purpose": purpose}
        if epoch == 0:
            key = self._make("state", f"{purpose} weights, seed {seed}", spec, seed)
        else:
            key = self._make(
                "state", f"dense training to epoch {epoch}, seed {seed}", spec | {"recipe": self._recipe}, seed,
                inputs={"init": self._state(seed, 0, purpose)}, cost=float(epoch), alike=f"{purpose} to {epoch}",
                step_images=self._experiment.train.batch_size,
            )  # fmt: skip
        return self._known.setdefault((seed, epoch, purpose), key)

    def _ranking(self, method: Method, prune_at: PruneAt, density: float, seed: int, state: str) -> str:
        if (known := self._known.get((method.label, prune_at, density, seed))) is not None:
            return known
        sharing = method.pruner.sharing(method.options)
        spec: dict[str, Any] = {"method": method.name, "options": self._options[method.label]}
        if method.pruner.trains:
            spec |= {"recipe": self._recipe, "epoch": self._epoch(prune_at)}
        inputs = {"state": state}
        if sharing == "densities":
            label = f"{method.label} search, seed {seed}"
            key = self._make("ranking", label, spec, seed, inputs=inputs, method=method.label)
            return self._known.setdefault((method.label, prune_at, density, seed), key)
        train = self._experiment.train
        cost = method.pruner.length(method.options, train, self._data[seed].samples)
        step_images = method.pruner.step_images(method.options, train)
        for level in method.pruner.levels(method.options, density) if sharing == "chain" else (density,):
            label = f"{method.label} search to {level:.4g}, seed {seed}"
            alike = f"{method.label} at {prune_at}" + (f" to {level}" if sharing == "chain" else "")
            key = self._make(
                "ranking", label, {**spec, "density": level}, seed, inputs=inputs, cost=cost,
                # At density 1 there is nothing to search for.
                alike=alike if step_images and level < 1 else "", step_images=step_images or 0,
                method=method.label,
            )  # fmt: skip
            inputs = {"state": state, "start": key}
        return self._known.setdefault((method.label, prune_at, density, seed), key)

    def _make(
        self, kind: Kind, label: str, spec: dict[str, Any], seed: int, *, inputs: dict[str, str] | None = None,
        cost: float = 0.0, alike: str = "", step_images: int = 0, method: str = "",
    ) -> str:  # fmt: skip
        full = spec | self._common[seed]
        stage = Stage(kind, label, full, inputs or {}, cost, self._where, alike, step_images, method)
        return self.stages.setdefault(stage.key, stage).key
