"""What is timed: networks on data of their shape, and steps, trainings and searches of them."""

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
from prune_bench.training import fit
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


def ticket(network: nn.Module, seed: int) -> Mask:
    """A random ticket: what a step costs does not hang on which weights live."""
    random = generator(seed, "bench", "ticket")
    weights = prunable_weights(network)
    scores = {name: torch.rand(weight.shape, generator=random) for name, weight in weights.items()}
    return Ranking.from_scores(scores).mask(DENSITY)


def fresh(network: nn.Module) -> nn.Module:
    """A copy to train, laid out as is fastest."""
    return copy.deepcopy(network).to(memory_format=torch.channels_last)


def bare(network: nn.Module, data: DataSet, recipe: Recipe) -> None:
    """The recipe in plain PyTorch, with nothing around it; trains the network in place."""
    network.train()
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


def steps(network: nn.Module, mask: Mask, data: DataSet, recipe: Recipe) -> None:
    """The same by our step, without Lightning; trains the network in place."""
    descent = Descent(network, mask, recipe)
    for epoch in range(recipe.epochs):
        for x, y in data.epoch(epoch, recipe.batch_size, augment=True):
            descent.step(x, y)


def search(
    method: str,
    networks: Sequence[nn.Module],
    data: Sequence[DataSet],
    *,
    density: float = DENSITY,
    recipe: Recipe | None = None,
    **options: Any,
) -> None:
    """Whole searches side by side, one a network, each with its data; the networks stay as they are."""
    entry, device = pruners[method], next(networks[0].parameters()).device
    how = entry.options(**options)
    lanes = [entry.build(net, (density,), how, recipe=recipe, seed=seed) for seed, net in enumerate(networks)]
    lanes[0].join(lanes[1:])
    fit(lanes[0], lanes[0].work(pack_data(data)), epochs=1, device=device)
