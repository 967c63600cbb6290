"""Training a network under a mask."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.aggregation import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from prune_bench.config import Recipe
from prune_bench.data.protocol import Batch, DataSet, EvaluationData
from prune_bench.mask import Mask
from prune_bench.training.blocks import Epochs
from prune_bench.training.descent import Descent
from prune_bench.training.trainer import fit


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training leaves behind.

    Attributes:
        network: The trained network, its pruned weights exactly 0.0.
        curves: One row an epoch: ``epoch``, ``train/loss`` and, with a validation split, ``validation/…``.
        diverged: The epoch whose training loss was not finite, or None.
    """

    network: nn.Module
    curves: list[dict[str, float]]
    diverged: int | None


class SparseTraining(LightningModule):
    """SGD under a mask as a LightningModule: a training step is a block of optimisation steps.

    Args:
        network: Copied; the copy is trained.
        mask: Which weights live.
        recipe: How it is trained.
        data: Evaluated on its validation split after every epoch, if it has one.
        first_epoch: The epoch of the whole recipe at which this training starts (a rewound network's is not 0).
    """

    def __init__(
        self, network: nn.Module, mask: Mask, recipe: Recipe, data: EvaluationData, *, first_epoch: int = 0
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = copy.deepcopy(network)
        self.mask, self.recipe, self.data, self.first_epoch = mask, recipe, data, first_epoch
        self.curves: list[dict[str, float]] = []
        self.diverged: int | None = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser, made here because only now the network is on its device."""
        self._descent = Descent(self.network, self.mask, self.recipe)
        return self._descent.optimizer

    def on_train_epoch_start(self) -> None:
        """Sets the epoch's learning rate."""
        self._descent.begin_epoch(self._epoch)
        self._loss = torch.zeros((), device=self.device)
        self._steps = 0

    def training_step(self, block: Iterator[Batch], index: int) -> None:
        """A block of optimisation steps."""
        for x, y in block:
            self._loss += self._descent.step(x, y)
            self._steps += 1

    def on_train_epoch_end(self) -> None:
        """Notes the epoch, and stops the training if its loss was not finite."""
        loss = float(self._loss) / max(self._steps, 1)
        self.curves.append({"epoch": self._epoch, "train/loss": loss})
        if not torch.isfinite(torch.tensor(loss)):
            self.diverged = self._epoch
            self.trainer.should_stop = True
            return
        batches = self.data.evaluation("validation", self.recipe.eval_batch_size)
        if scores := evaluate(self.network, batches):
            self.curves[-1] |= {f"validation/{name}": value for name, value in scores.items()}

    @property
    def _epoch(self) -> int:
        return self.first_epoch + self.current_epoch


def train(
    network: nn.Module,
    mask: Mask,
    recipe: Recipe,
    data: DataSet,
    *,
    first_epoch: int = 0,
    last_epoch: int | None = None,
    device: torch.device,
) -> Trained:
    """Trains a copy of ``network`` under ``mask`` from ``first_epoch`` up to, not including, ``last_epoch``.

    Args:
        network: Left as it is.
        mask: Which weights live.
        recipe: How it is trained.
        data: Where batches come from, already on ``device``.
        first_epoch: Epoch of the recipe to start at.
        last_epoch: Epoch of the recipe to stop before; the recipe's end if None.
        device: Where it runs.
    """
    module = SparseTraining(network, mask, recipe, data, first_epoch=first_epoch)
    epochs = (recipe.epochs if last_epoch is None else last_epoch) - first_epoch
    fit(module, Epochs(data, recipe.batch_size, first=first_epoch), epochs=epochs, device=device)
    return Trained(network=module.network, curves=module.curves, diverged=module.diverged)


@torch.no_grad()
def evaluate(network: nn.Module, batches: Iterator[Batch]) -> dict[str, float]:
    """Accuracy (fraction) and mean cross-entropy over fixed batches, in eval mode; empty if there are no batches.

    Without running statistics the figures depend on the batches, so these must be the same for every cell.
    """
    was_training = network.training
    network.eval()
    accuracy, loss = None, MeanMetric()
    for x, y in batches:
        logits: Tensor = network(x)
        if accuracy is None:
            accuracy = MulticlassAccuracy(logits.shape[1], average="micro").to(x.device)
            loss = loss.to(x.device)
        accuracy.update(logits.argmax(1), y)
        loss.update(F.cross_entropy(logits, y), weight=len(y))
    network.train(was_training)
    if accuracy is None:
        return {}
    return {"accuracy": float(accuracy.compute()), "loss": float(loss.compute())}
