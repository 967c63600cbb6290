"""Training a network under a mask."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn

from prune_bench.config import Recipe
from prune_bench.data.protocol import Batch, DataSet, EvaluationData
from prune_bench.mask import Mask
from prune_bench.packing import PackedData, lane_outputs, pack, unpack_
from prune_bench.training.blocks import Epochs
from prune_bench.training.checkpoint import Checkpoint
from prune_bench.training.descent import Descent
from prune_bench.training.pieces import in_pieces
from prune_bench.training.replay import Replayed, record_of
from prune_bench.training.scores import LaneScores
from prune_bench.training.trainer import fit

log = logging.getLogger(__name__)


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
        networks: Lanes to train side by side; they stay as they are, copies are trained.
        masks: Which weights of each live.
        recipe: How they are trained.
        data: The lanes' together; its validation split, if it has one, is evaluated after every epoch.
        first_epoch: The epoch of the whole recipe at which this training starts (a rewound network's is not 0).
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        masks: Sequence[Mask],
        recipe: Recipe,
        data: EvaluationData,
        *,
        first_epoch: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = pack([copy.deepcopy(network) for network in networks])
        self.mask, self.lanes = Mask.side_by_side(masks), len(networks)
        self.recipe, self.data, self.first_epoch = recipe, data, first_epoch
        self.curves: list[list[dict[str, float]]] = [[] for _ in networks]
        self.diverged: list[int | None] = [None for _ in networks]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser, made here because only now the network is on its device."""
        self._descent = Descent(self.network, self.mask, self.recipe, lanes=self.lanes)
        self._step = Replayed(self._descent.step, record_of(self.device))
        return self._descent.optimizer

    def on_train_epoch_start(self) -> None:
        """Sets the epoch's learning rate."""
        if self._descent.begin_epoch(self._epoch):
            self._step.forget()
        self._losses = torch.zeros(self.lanes, device=self.device)
        self._steps = 0

    def training_step(self, block: Iterator[Batch], index: int) -> None:
        """A block of optimisation steps."""
        for x, y in block:
            self._losses += self._step(x, y)
            self._steps += 1

    def on_train_epoch_end(self) -> None:
        """Notes each lane's epoch; a lane whose loss is not finite has ended, and with the last the training."""
        losses = (self._losses / max(self._steps, 1)).tolist()
        batches = self.data.evaluation("validation", self.recipe.eval_batch_size)
        scores = evaluate_lanes(self.network, batches, self.lanes, self.recipe.norm_batch) or [{} for _ in losses]
        for lane, loss in enumerate(losses):
            if self.diverged[lane] is not None:
                continue
            validation = {f"validation/{name}": value for name, value in scores[lane].items()}
            if not math.isfinite(loss):
                self.diverged[lane], validation = self._epoch, {}
            self.curves[lane].append({"epoch": self._epoch, "train/loss": loss, **validation})
        log.info("epoch %d: loss %s", self._epoch, ", ".join(f"{loss:.4f}" for loss in losses))
        self.trainer.should_stop = None not in self.diverged

    def on_train_end(self) -> None:
        """Lets go of the record, and of the device's memory that it holds."""
        self._step.forget()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what was noted of the epochs so far."""
        checkpoint["curves"], checkpoint["diverged"] = self.curves, self.diverged

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes it up again."""
        self.curves, self.diverged = checkpoint["curves"], checkpoint["diverged"]

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
    checkpoint: Checkpoint | None = None,
) -> Trained:
    """Trains a copy of ``network`` under ``mask``; see :func:`train_lanes`, of which this is the case of one."""
    (trained,) = train_lanes(
        [network], [mask], recipe, data,
        first_epoch=first_epoch, last_epoch=last_epoch, device=device, checkpoint=checkpoint,
    )  # fmt: skip
    return trained


def train_lanes(
    networks: Sequence[nn.Module],
    masks: Sequence[Mask],
    recipe: Recipe,
    data: DataSet | PackedData,
    *,
    first_epoch: int = 0,
    last_epoch: int | None = None,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
) -> list[Trained]:
    """Trains copies of the networks side by side from ``first_epoch`` up to, not including, ``last_epoch``.

    Args:
        networks: Of one architecture; left as they are.
        masks: Which weights of each live.
        recipe: How all are trained.
        data: Theirs side by side, already on ``device``.
        first_epoch: Epoch of the recipe to start at.
        last_epoch: Epoch of the recipe to stop before; the recipe's end if None.
        device: Where it runs.
        checkpoint: Where it keeps how far it is, and goes on from if it was cut off; None to keep nothing.

    Raises:
        TypeError: There are several networks, and they cannot be packed.
    """
    module = SparseTraining(networks, masks, recipe, data, first_epoch=first_epoch)
    epochs = (recipe.epochs if last_epoch is None else last_epoch) - first_epoch
    loader = Epochs(data, recipe.batch_size, first=first_epoch, end=first_epoch + epochs)
    fit(module, loader, epochs=epochs, device=device, checkpoint=checkpoint)
    trained = [copy.deepcopy(network).to(device) for network in networks]
    unpack_(module.network, trained)
    return [
        Trained(network=network, curves=curves, diverged=diverged)
        for network, curves, diverged in zip(trained, module.curves, module.diverged)
    ]


def evaluate(network: nn.Module, batches: Iterator[Batch]) -> dict[str, float]:
    """Accuracy (fraction) and mean cross-entropy over fixed batches, in eval mode; empty if there are no batches.

    Without running statistics the figures depend on the batches, so these must be the same for every cell.
    """
    scores = evaluate_lanes(network, batches, 1)
    return scores[0] if scores else {}


@torch.no_grad()
def evaluate_lanes(
    network: nn.Module, batches: Iterator[Batch], lanes: int, norm_batch: int | None = None
) -> list[dict[str, float]]:
    """:func:`evaluate` of every lane of a packed network.

    Args:
        network: ``lanes`` networks side by side.
        batches: Images [B, lanes x C, ...] and labels [lanes, B].
        lanes: How many.
        norm_batch: Images whose statistics batch normalisation takes; None for those of a batch.
    """
    was_training, scores = network.training, None
    network.eval()
    run = in_pieces(network, norm_batch)
    for x, y in batches:
        scores = LaneScores(lanes).to(x.device) if scores is None else scores
        scores.update(lane_outputs(run(x), lanes), y.view(lanes, -1))
    network.train(was_training)
    return [] if scores is None else scores.compute()
