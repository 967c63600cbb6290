"""Data that a user brings: a DataLoader, a LightningDataModule or a list of batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn

from prune_bench.data.protocol import Batch, TrainingData
from prune_bench.data.transfer import one_ahead, send
from prune_bench.errors import DataError


def as_training_data(data: Any, network: nn.Module, device: torch.device) -> TrainingData:
    """What pruners need, from what a user has.

    Args:
        data: A ``DataLoader`` or any other iterable of (x, y) that can be gone through again, a
            ``LightningDataModule``, or a list of (x, y).
        network: Tells the number of classes; it is run once, on the CPU or where it is.
        device: Where batches are moved.

    Raises:
        DataError: There is no batch in it, or its items are no pairs of tensors.
    """
    if all(hasattr(data, name) for name in ("balanced", "epoch", "steps_per_epoch")):
        return cast("TrainingData", data.to(device))
    if hasattr(data, "train_dataloader"):
        data.prepare_data()
        data.setup("fit")
        data = data.train_dataloader()
    return UserData(data, network, device)


class UserData:
    """Batches as they come, moved to the device; what a loader shuffles or augments, it goes on to."""

    def __init__(self, loader: Any, network: nn.Module, device: torch.device) -> None:
        self._loader, self._device = loader, device
        x, _ = next(self._pairs(), (None, None))
        if x is None:
            raise DataError("the data holds no batch (x, y)")
        self.input_shape = tuple(x.shape[1:])
        self.num_classes = self._count_classes(network, x)
        dataset = getattr(loader, "dataset", None)
        self.samples = (
            len(dataset) if hasattr(dataset, "__len__") else sum(len(y) for _, y in self._pairs())  # type: ignore[arg-type]
        )

    def steps_per_epoch(self, batch_size: int) -> int:
        """How many batches there are; their size is the user's affair."""
        return len(self._loader)

    def epoch(self, epoch: int, batch_size: int, *, augment: bool) -> Iterator[Batch]:
        """The batches of one pass."""
        return self._batches()

    def balanced(self, per_class: int) -> Batch:
        """All of a list of batches; of a loader the first ``per_class`` samples of each class it gives."""
        if isinstance(self._loader, (list, tuple)):
            whole = list(self._batches())
            return torch.cat([x for x, _ in whole]), torch.cat([y for _, y in whole])
        room = Counter(dict.fromkeys(range(self.num_classes), per_class))
        xs, ys = [], []
        for x, y in self._pairs():
            chosen = [i for i, label in enumerate(y.tolist()) if self._take(room, label)]
            xs.append(send(x[chosen], self._device))
            ys.append(send(y[chosen], self._device))
            if not +room:
                break
        return torch.cat(xs), torch.cat(ys)

    @staticmethod
    def _take(room: Counter[int], label: int) -> bool:
        room[label] -= 1
        return room[label] >= 0

    def _batches(self) -> Iterator[Batch]:
        sent = ((send(x, self._device), send(y, self._device)) for x, y in self._pairs())
        # On a CPU nothing is won, and a loader that draws from the global generator would do so out of turn.
        return one_ahead(sent) if self._device.type == "cuda" else sent

    def _pairs(self) -> Iterator[Batch]:
        for item in self._loader:
            if not (
                isinstance(item, (list, tuple)) and len(item) == 2 and all(isinstance(t, torch.Tensor) for t in item)
            ):
                raise DataError(f"a batch must be a pair of tensors (x, y), and one is a {type(item).__name__}")
            yield item[0], item[1]

    @staticmethod
    @torch.no_grad()
    def _count_classes(network: nn.Module, x: torch.Tensor) -> int:
        was_training = network.training
        network.eval()
        first = next(network.parameters())
        classes = network(x.to(first.device)).shape[-1]
        network.train(was_training)
        return int(classes)
