"""The Lightning Trainer, set up once for searches and trainings alike."""

from __future__ import annotations

import contextlib
import logging
import signal
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from prune_bench.parallel import of_first, rank
from prune_bench.training.checkpoint import AmongFiles, Checkpoint, Saver
from prune_bench.training.one_process import OneProcess, no_defaults


def fit(
    module: LightningModule,
    loader: Iterable[Any],
    *,
    epochs: int,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Runs ``module`` over ``loader`` for a number of Lightning epochs on one device.

    Args:
        module: A pruner or a training, under manual optimisation.
        loader: Its items; anything iterable, sized or not.
        epochs: Passes over ``loader``.
        device: Where it runs; ``cuda`` without an index is the current GPU, which stays the current one.
        checkpoint: Where it keeps how far it is, and goes on from if it was cut off; None to keep nothing.

    Raises:
        KeyboardInterrupt: Ctrl-C. Lightning turns it into ``SystemExit`` and leaves Ctrl-C switched off.
    """
    device, handler = with_index(device), signal.getsignal(signal.SIGINT)
    with no_defaults():
        trainer = _trainer(epochs, device, checkpoint)
    items = _Items(loader) if isinstance(loader, (list, tuple)) else loader
    resumed = _resumed(module, device, checkpoint)
    try:
        # Lightning makes its GPU the current one, and leaves it so.
        here = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
        with here, warnings.catch_warnings():
            # Lightning warns of few workers, no optimiser and no validation: all three are meant.
            warnings.simplefilter("ignore")
            trainer.fit(module, train_dataloaders=items, ckpt_path=resumed)
    except SystemExit as error:
        # Another one is raised by the module itself.
        if isinstance(error.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from None
        raise
    finally:
        # A Trainer is part of reference cycles: module, data and a GPU's memory would stay until they are collected.
        vars(trainer).clear()


def with_index(device: torch.device) -> torch.device:
    """The same device; ``cuda`` without an index is the current GPU by its index."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


class _Items:
    """A list as one loader: Lightning takes a bare list for a list of loaders."""

    def __init__(self, items: Sequence[Any]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)


def _resumed(module: LightningModule, device: torch.device, checkpoint: Checkpoint | None) -> str | None:
    """What can be gone on from; of several ranks the first decides, because all must begin alike."""
    if checkpoint is None:
        return None
    usable = rank() == 0 and checkpoint.resumable(module) is not None
    return checkpoint.name if of_first(usable, device) else None


def _trainer(epochs: int, device: torch.device, checkpoint: Checkpoint | None) -> Trainer:
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    devices: Any = 1 if device.type != "cuda" else [device.index]
    return Trainer(
        accelerator={"cuda": "gpu"}.get(device.type, device.type),
        devices=devices,
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=checkpoint is not None,
        callbacks=[] if checkpoint is None else [Saver(checkpoint)],
        plugins=[OneProcess(), *([] if checkpoint is None else [AmongFiles(checkpoint.files)])],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
