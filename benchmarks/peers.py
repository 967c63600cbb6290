"""Other people's training steps and searches beside ours, from checkouts that are at hand; none is part of this.

``PEERS`` in the environment names a folder that holds them: ``make bench PEERS=/folder``. They are given our network
(laid out channels-last, which speeds them up too), batches, ticket and recipe, but for the clipping of gradients,
which neither does. Their SynFlow scores in float32, ours in float64.
"""

from __future__ import annotations

import contextlib
import copy
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import Row, clock
from torch import nn
from work import DENSITY, Cell

from prune_bench.data.protocol import Batch

ROUNDS = 100  # of SynFlow, as ours has


class Loader:
    """Our batches, in the words of both peers' loaders."""

    def __init__(self, cell: Cell) -> None:
        self._data, self._size, self._epoch = cell.data, cell.recipe.batch_size, 0
        self.dataset = range(cell.data.samples)
        self.iterations_per_epoch = cell.data.steps_per_epoch(self._size)

    def shuffle(self, seed: int) -> None:
        """Names the epoch, which is open_lth's seed of the order."""
        self._epoch = seed

    def __len__(self) -> int:
        return self.iterations_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        return self._data.epoch(self._epoch, self._size, augment=True)


@contextlib.contextmanager
def checkout(folder: Path) -> Iterator[None]:
    """Inside it ``folder``'s modules can be imported; afterwards their names are free again for another checkout."""
    known = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - known:
            places = [getattr(sys.modules[name], "__file__", None), *getattr(sys.modules[name], "__path__", ())]
            if any(place and Path(place).is_relative_to(folder) for place in places):
                del sys.modules[name]


def synaptic_flow(folder: Path, cell: Cell, floor: float) -> list[Row]:
    """Synaptic-Flow's training step and its SynFlow."""
    with checkout(folder):
        layers, train, prune = (import_module(name) for name in ("Layers.layers", "train", "prune"))
        pruners, utils = import_module("Pruners.pruners"), import_module("Utils.generator")

    def training() -> None:
        network = _of_their_layers(cell.network, layers, statistics=False)
        for (mask, _), keep in zip(utils.masked_parameters(network), cell.mask.values()):
            mask.copy_(keep)
        recipe, loader = cell.recipe, Loader(cell)
        optimiser = torch.optim.SGD(
            network.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay
        )
        for epoch in range(recipe.epochs):
            loader.shuffle(epoch)
            train.train(network, nn.CrossEntropyLoss(), optimiser, loader, cell.device, epoch, verbose=False)

    def search() -> None:
        # Theirs takes normalisation for affine by its running statistics, which are 0 and 1 before training.
        network = _of_their_layers(cell.network, layers, statistics=True)
        pruner = pruners.SynFlow(utils.masked_parameters(network))
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
            prune.prune_loop(
                network, None, pruner, Loader(cell), cell.device, DENSITY, "exponential", "global", ROUNDS
            )

    return [
        Row("Synaptic-Flow: training", clock(training, cell.device, cell.steps), "step", "bare loop", floor),
        Row("Synaptic-Flow: synflow", clock(search, cell.device), "search", "synflow"),
    ]


def _of_their_layers(network: nn.Module, layers: Any, *, statistics: bool) -> nn.Module:
    """A copy of the network with Synaptic-Flow's layers, which hold masks, in place of torch's."""
    network = copy.deepcopy(network)
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d):
            shape = (module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding)
            theirs = layers.Conv2d(*shape, bias=module.bias is not None)
        elif isinstance(module, nn.Linear):
            theirs = layers.Linear(module.in_features, module.out_features, module.bias is not None)
        elif isinstance(module, nn.BatchNorm2d):
            theirs = layers.BatchNorm2d(module.num_features, track_running_stats=statistics)
        else:
            continue
        theirs.weight, theirs.bias = module.weight, module.bias
        network.set_submodule(name, theirs.to(module.weight.device))
    return network.to(memory_format=torch.channels_last)


def open_lth(folder: Path, cell: Cell, floor: float) -> list[Row]:
    """open_lth's training step."""
    with checkout(folder):
        base, pruned, masks = (
            import_module(name) for name in ("models.base", "pruning.pruned_model", "pruning.mask")
        )
        train, hparams = import_module("training.train"), import_module("foundations.hparams")
        platform, local = import_module("platforms.platform"), import_module("platforms.local")
    np.product = np.prod  # its schedule calls it by the name that numpy 2 has dropped
    here = {"torch_device": cell.device, "is_parallel": False}
    platform._PLATFORM = type("Platform", (local.Platform,), here)()
    recipe = cell.recipe
    how = hparams.TrainingHparams(
        "sgd", recipe.lr, f"{recipe.epochs}ep", data_order_seed=0, momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )  # fmt: skip
    mask = masks.Mask({f"network.{name}": keep for name, keep in cell.mask.items()})

    def training() -> None:
        network = pruned.PrunedModel(_as_model(copy.deepcopy(cell.network), base.Model), mask)
        with tempfile.TemporaryDirectory() as output:
            train.train(how, network.to(memory_format=torch.channels_last), Loader(cell), output)

    return [Row("open_lth: training", clock(training, cell.device, cell.steps), "step", "bare loop", floor)]


def _as_model(network: nn.Module, base: type[Any]) -> nn.Module:
    """Any network as one of open_lth's models."""

    class Wrapped(base):
        is_valid_model_name = get_model_from_name = default_hparams = None
        output_layer_names, loss_criterion = (), nn.CrossEntropyLoss()

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x)

    return Wrapped()


ADAPTERS = {"Synaptic-Flow": ("ganguli-lab", synaptic_flow), "open_lth": ("facebookresearch", open_lth)}


def peers(cell: Cell, floor: float) -> tuple[list[Row], list[str]]:
    """The rows of the peers that are at hand, and a line for each that is not.

    Args:
        cell: What they are given.
        floor: Seconds that a training step of it takes at least.
    """
    rows, missing = [], []
    for name, (owner, adapter) in ADAPTERS.items():
        folder = Path(os.environ.get("PEERS", ""), name).resolve()
        if os.environ.get("PEERS") and folder.is_dir():
            rows += adapter(folder, cell, floor)
        else:
            missing.append(f"no {name} here: git clone https://github.com/{owner}/{name} into a folder, PEERS=FOLDER")
    return rows, missing
