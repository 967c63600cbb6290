"""What is timed: trainings and searches, and a plain loop to compare them with."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from prune_bench.config import Recipe
from prune_bench.data import load_data
from prune_bench.data.protocol import DataSet
from prune_bench.mask import Mask, prunable_weights
from prune_bench.models import build_model
from prune_bench.packing import pack_data
from prune_bench.precision import products
from prune_bench.pruners import pruners
from prune_bench.randomness import generator
from prune_bench.ranking import Ranking
from prune_bench.training import fit, train_lanes
from prune_bench.training.descent import Descent

DENSITY = 0.05


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network, data of its shape, and how many images its steps take.

    Attributes:
        name: What it is called.
        model: As registered.
        options: The model's.
        data: As registered.
        data_options: The data set's.
        batch: Images a training step.
        search_batch: Images a search step.
    """

    name: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)
    data: str = "synthetic"
    data_options: dict[str, Any] = field(default_factory=dict)
    batch: int = 512
    search_batch: int = 512

    def load(self, seed: int, device: torch.device) -> DataSet:
        """Its data, held on the device."""
        return load_data(self.data, self.data_options, seed).to(device)

    def network(self, data: DataSet, seed: int, device: torch.device) -> nn.Module:
        """Its network, freshly drawn."""
        channels, _, size = data.input_shape
        network = build_model(
            self.model, self.options, in_channels=channels, image_size=size, num_classes=data.num_classes,
            generator=generator(seed, "bench"),
        )  # fmt: skip
        return network.to(device)

    def recipe(self, epochs: int) -> Recipe:
        """The published recipe at this length and batch."""
        return Recipe(epochs=epochs, batch_size=self.batch, milestones=())


_MADE_UP = {"samples": 1280, "test_samples": 10}  # two batches of 512 beside the validation split
SMOKE = Case(name="smoke", model="resnet8", options={"width": 8}, data="digits", batch=64, search_batch=128)
RESNET20 = Case(name="ResNet-20", model="resnet20", data_options=_MADE_UP)
VGG16 = Case(name="VGG-16", model="vgg16", data_options=_MADE_UP)


@dataclass(frozen=True)
class Cell:
    """A training: what it starts from, and how it goes.

    Attributes:
        network: Left as it is by all that is done with a cell.
        mask: Its ticket.
        data: On the network's device.
        recipe: How it is trained.
    """

    network: nn.Module
    mask: Mask
    data: DataSet
    recipe: Recipe

    @classmethod
    def of(cls, case: Case, seed: int, device: torch.device, *, epochs: int) -> Cell:
        """A seed's cell of a case."""
        data = case.load(seed, device)
        network = case.network(data, seed, device)
        return cls(network, ticket(network, seed), data, case.recipe(epochs))

    @property
    def steps(self) -> int:
        """Of a whole training."""
        return self.recipe.epochs * self.data.steps_per_epoch(self.recipe.batch_size)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.network.parameters()).device


def ticket(network: nn.Module, seed: int) -> Mask:
    """A random ticket: what a step costs does not hang on which weights live."""
    random = generator(seed, "bench", "ticket")
    weights = prunable_weights(network)
    scores = {name: torch.rand(weight.shape, generator=random) for name, weight in weights.items()}
    return Ranking.from_scores(scores).mask(DENSITY)


def bare(network: nn.Module, data: DataSet, recipe: Recipe) -> None:
    """A recipe in plain PyTorch, laid out as is fastest, with nothing around it; trains the network in place."""
    network.to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(
        network.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, fused=True
    )
    for epoch in range(recipe.epochs):
        for x, y in data.epoch(epoch, recipe.batch_size, augment=True):
            optimiser.zero_grad()
            with products("float32"):
                F.cross_entropy(network(x), y).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
            optimiser.step()


def steps(cell: Cell) -> None:
    """A training by our step, without Lightning."""
    descent = Descent(copy.deepcopy(cell.network), cell.mask, cell.recipe)
    for epoch in range(cell.recipe.epochs):
        for x, y in cell.data.epoch(epoch, cell.recipe.batch_size, augment=True):
            descent.step(x, y)


def trainings(cells: Sequence[Cell]) -> None:
    """Whole trainings side by side: Lightning, curves, a validation every epoch."""
    train_lanes(
        [cell.network for cell in cells], [cell.mask for cell in cells], cells[0].recipe,
        pack_data([cell.data for cell in cells]), device=cells[0].device,
    )  # fmt: skip


def search(method: str, cells: Sequence[Cell], *, density: float = DENSITY, **options: Any) -> None:
    """Whole searches side by side, one a cell."""
    entry, how = pruners[method], pruners[method].options(**options)
    lanes = [
        entry.build(cell.network, (density,), how, recipe=cell.recipe, seed=seed) for seed, cell in enumerate(cells)
    ]
    lanes[0].join(lanes[1:])
    fit(lanes[0], lanes[0].work(pack_data([cell.data for cell in cells])), epochs=1, device=cells[0].device)
