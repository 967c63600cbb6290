"""Checkpoints of trainings: one that is killed and run again goes on, and ends with the bits it would have had.

What decides the bits is Lightning's to keep (weights, optimiser, epoch), the module's own (``on_save_checkpoint``),
or here (torch's global generators, for layers that draw). Orders and augmentation follow from seed and epoch.
"""

from __future__ import annotations

import io
import logging
import time
import zipfile
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor

from prune_bench.files import Files
from prune_bench.parallel import of_all, of_first, rank

log = logging.getLogger(__name__)
_MADE_BY = f"prune_bench 2, torch {torch.__version__}, lightning {lightning.__version__}"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where a training keeps how far it is. Its file is no other training's, and is the caller's to remove.

    Attributes:
        files: What it lies among; any place that a store may be at.
        name: Its own among them.
        every: Seconds between two checkpoints; one is written at the first epoch's end after that.
    """

    files: Files
    name: str
    every: float

    def resumable(self, module: LightningModule) -> str | None:
        """The name, if ``module`` can go on from what lies there; what it cannot use is removed with a word."""
        if not self.files.exists(self.name):
            return None
        try:
            _check(self.files.read(self.name), module)
        except Exception as error:  # torch's, pickle's and zip's errors share no base
            log.warning("%s cannot be gone on from (%s): the training begins anew", self.name, error)
            self.remove()
            return None
        return self.name

    def remove(self) -> None:
        """Removes the file, once what it was kept for is in safety."""
        self.files.remove(self.name)


class Saver(lightning_callbacks.Checkpoint):
    """Writes a checkpoint at an epoch's end whenever one is due; one that cannot be written costs a warning.

    Lightning calls a callback of this class after the module, whose epoch is then complete. Modules that pass all
    their epochs as items of one of Lightning's say so by an attribute ``resumable``, and are saved after an item.

    Args:
        checkpoint: Where, and how often.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._random: dict[str, list[Tensor]] = {}
        self._drawn: dict[str, list[Tensor]] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The clock starts; generators stand where they stood."""
        self._saved = time.monotonic()
        # Of a rank that was not there when the file was written, the generators stay as they are.
        if rank() < len(self._random.get("cpu", [])):
            torch.set_rng_state(self._random["cpu"][rank()])
            if pl_module.device.type == "cuda":
                torch.cuda.set_rng_state(self._random["cuda"][rank()], pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After an item."""
        if getattr(pl_module, "resumable", False):
            self._save_if_due(trainer, pl_module.device)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After an epoch of Lightning's, if another follows."""
        if trainer.current_epoch + 1 < (trainer.max_epochs or 0) and not trainer.should_stop:
            self._save_if_due(trainer, pl_module.device)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds what neither Lightning nor the module keeps."""
        checkpoint["made_by"], checkpoint["random"] = _MADE_BY, self._drawn

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps the generators' states until the training starts: what comes before may draw."""
        self._random = checkpoint["random"]

    def _save_if_due(self, trainer: Trainer, device: torch.device) -> None:
        if not of_first(time.monotonic() - self._saved >= self._checkpoint.every, device):
            return
        # The ranks of one cell are alike but for what they draw.
        self._drawn = {"cpu": of_all(torch.get_rng_state(), device)}
        if device.type == "cuda":
            self._drawn["cuda"] = of_all(torch.cuda.get_rng_state(device), device)
        try:
            if rank() == 0:
                trainer.save_checkpoint(self._checkpoint.name)
        except OSError as error:
            log.warning("no checkpoint could be written to %s: %s", self._checkpoint.name, error)
        self._saved = time.monotonic()


class AmongFiles(CheckpointIO):
    """Lightning's checkpoints as named bytes, there whole or not at all: nothing but tensors and plain values.

    Args:
        files: What they lie among; Lightning calls a name a path.
    """

    def __init__(self, files: Files) -> None:
        self._files = files

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Written at one stroke.

        Raises:
            OSError: The disk is full, or the folder cannot be written; what was there stays.
        """
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        self._files.write(str(path), buffer.getvalue())

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """What was saved, on the CPU."""
        return _load(self._files.read(str(path)))

    def remove_checkpoint(self, path: Any) -> None:
        """Removes it."""
        self._files.remove(str(path))


def _load(data: bytes) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return loaded


def _check(data: bytes, module: LightningModule) -> None:
    # torch.load does not notice flipped bits; the file is a zip archive, whose checksums do.
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} in it is damaged")
    loaded = _load(data)
    if loaded.get("made_by") != _MADE_BY:
        raise ValueError(f"it was made by {loaded.get('made_by')}, and this is {_MADE_BY}")
    there = {name: tensor.shape for name, tensor in loaded["state_dict"].items()}
    # A pruner, once it trains, has more than it begins with.
    if any(there.get(name) != tensor.shape for name, tensor in module.state_dict().items()):
        raise ValueError("it is of another network")
