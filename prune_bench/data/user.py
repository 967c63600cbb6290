"""Data that a user brings: a DataLoader, a LightningDataModule, a list of batches, two tensors, or none at all."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from prune_bench.data.device import DeviceData
from prune_bench.data.folder import ImageFolderData
from prune_bench.data.input_shape import find_input_shape
from prune_bench.data.labels import check_contributed, check_labels
from prune_bench.data.protocol import Batch, TrainingData
from prune_bench.data.transfer import one_ahead, send
from prune_bench.errors import ConfigError, DataError

_PATIENCE = 1000
"""Batches in a row without a sample that is wanted, after which a stream without an end is left."""


def as_training_data(
    data: Any, network: nn.Module, device: torch.device, input_shape: Sequence[int] | None = None
) -> TrainingData:
    """What pruners need, from what a user has; nothing is read before a pruner asks for it.

    Args:
        data: A ``DataLoader`` or any other iterable of (x, y) that can be gone through again, a
            ``LightningDataModule``, a list of (x, y), two tensors (x, y), or None.
        network: Tells the number of classes; it is run once if a pruner asks for samples.
        device: Where batches are moved.
        input_shape: Of one sample, for pruners that need no more, where ``data`` is None.

    Raises:
        DataError: It can be gone through only once, or is no iterable of batches.
    """
    if data is None:
        return cast("TrainingData", NoData(network, input_shape))
    if all(hasattr(data, name) for name in ("balanced", "epoch", "steps_per_epoch")):
        if not isinstance(data, (DeviceData, ImageFolderData)):
            check_contributed(data)
        return cast("TrainingData", data.to(device))
    if hasattr(data, "train_dataloader"):
        data.prepare_data()
        data.setup("fit")
        data = data.train_dataloader()
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(t, Tensor) for t in data):
        data = [data]
    _check_iterable(data)
    return cast("TrainingData", UserData(data, network, device))


class UserData:
    """Batches as they come, moved to the device; what a loader shuffles or augments, it goes on to."""

    def __init__(self, loader: Any, network: nn.Module, device: torch.device) -> None:
        self._loader, self._network, self._device = loader, network, device
        self._was_read = False

    @cached_property
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample; one batch is read for it."""
        return tuple(next(self._pairs())[0].shape[1:])

    @cached_property
    def num_classes(self) -> int:
        """As many as the network gives logits for a first batch; of a list all labels are looked at once."""
        x, y = next(self._pairs())
        classes = _count_classes(self._network, x)
        for inputs, labels in self._loader if isinstance(self._loader, (list, tuple)) else [(x, y)]:
            check_labels(labels, len(inputs), classes)
        return classes

    @cached_property
    def samples(self) -> int:
        """Samples of one pass, where that is known without going through it."""
        if isinstance(self._loader, (list, tuple)):
            return sum(len(y) for _, y in self._pairs())
        dataset = getattr(self._loader, "dataset", None)
        return len(dataset) if hasattr(dataset, "__len__") else self.steps_per_epoch(1)  # type: ignore[arg-type]

    def steps_per_epoch(self, batch_size: int) -> int:
        """How many batches there are; their size is the user's affair.

        Raises:
            DataError: It is a stream, of which that is not known.
        """
        if (length := self._length()) is None:
            raise DataError(
                f"a {type(self._loader).__name__} without a length has no epochs, for it may never end: give a "
                "loader whose len() is known or a list of batches; concrete searches can be given steps= instead"
            )
        return length

    def epoch(self, epoch: int, batch_size: int, *, augment: bool) -> Iterator[Batch]:
        """The batches of one pass; of a loader with a length as many as that says."""
        return islice(self._batches(), self._length())

    def balanced(self, per_class: int) -> Batch:
        """All of a list of batches; of a loader the first ``per_class`` samples of each class it gives."""
        if isinstance(self._loader, (list, tuple)):
            return _together(list(self._batches()))
        room = Counter(dict.fromkeys(range(self.num_classes), per_class))
        found, in_vain = [], 0
        for x, y in self._checked():
            chosen = [i for i, label in enumerate(y.tolist()) if self._take(room, label)]
            found.append((send(x[chosen], self._device), send(y[chosen], self._device)))
            in_vain = 0 if chosen else in_vain + 1
            if not +room or (in_vain == _PATIENCE and self._length() is None):
                break
        if in_vain == _PATIENCE:
            lacking = [label for label in room if room[label] > 0]
            warnings.warn(f"{_PATIENCE} batches in a row held nothing more of the classes {lacking}", stacklevel=2)
        return _together(found)

    @staticmethod
    def _take(room: Counter[int], label: int) -> bool:
        room[label] -= 1
        return room[label] >= 0

    def _length(self) -> int | None:
        try:
            return len(self._loader)
        except TypeError:  # a loader of an IterableDataset has the method and cannot answer
            return None

    def _batches(self) -> Iterator[Batch]:
        sent = ((send(x, self._device), send(y, self._device)) for x, y in self._checked())
        # On a CPU nothing is won, and a loader that draws from the global generator would do so out of turn.
        return one_ahead(sent) if self._device.type == "cuda" else sent

    def _checked(self) -> Iterator[Batch]:
        classes = self.num_classes
        for x, y in self._pairs():
            yield x, check_labels(y, len(x), classes)

    def _pairs(self) -> Iterator[Batch]:
        """What the loader gives, pairs of tensors.

        Raises:
            DataError: It gives something else, or nothing.
        """
        empty = True
        for item in self._loader:
            if not (isinstance(item, (list, tuple)) and len(item) == 2 and all(isinstance(t, Tensor) for t in item)):
                raise DataError(f"a batch must be a pair of tensors (x, y), and one is a {type(item).__name__}")
            empty, self._was_read = False, True
            yield item[0], item[1]
        if empty:
            raise DataError(_ONCE if self._was_read else "the data holds no batch (x, y)")


class NoData:
    """What stands where no data is given: methods that look at no sample do without it.

    Args:
        network: Tells its input's shape, as far as it can.
        input_shape: Of one sample, if that is said.
    """

    def __init__(self, network: nn.Module, input_shape: Sequence[int] | None) -> None:
        self._network, self._said = network, input_shape

    @cached_property
    def input_shape(self) -> tuple[int, ...]:
        """As said, or found by trying."""
        return tuple(self._said) if self._said is not None else find_input_shape(self._network)

    @property
    def num_classes(self) -> int:
        """Not known."""
        self._refuse()

    @property
    def samples(self) -> int:
        """Not known."""
        self._refuse()

    def steps_per_epoch(self, batch_size: int) -> int:
        """Not known."""
        self._refuse()

    def epoch(self, epoch: int, batch_size: int, *, augment: bool) -> Iterator[Batch]:
        """There are none."""
        self._refuse()

    def balanced(self, per_class: int) -> Batch:
        """There are none."""
        self._refuse()

    @staticmethod
    def _refuse() -> NoReturn:
        raise ConfigError("data", None, "is not enough: this method looks at samples; give a DataLoader or batches")


_ONCE = (
    "the data can be gone through once only, as a generator or iter(loader) can: give the loader itself, or "
    "list(...) of its batches"
)


def _check_iterable(data: Any) -> None:
    """Refuses what is no iterable of batches, or is one only once.

    Raises:
        DataError: See above.
    """
    if isinstance(data, Dataset):
        raise DataError(f"a {type(data).__name__} gives samples and no batches: give DataLoader(dataset, batch_size)")
    if not hasattr(data, "__iter__"):
        raise DataError(
            f"a {type(data).__name__} is no data: give a DataLoader, a list of batches, or tensors (x, y)"
        )
    # Loaders whose workers stay are asked for one iterator again and again, and begin anew each time.
    if not isinstance(data, (list, tuple, DataLoader)) and (hasattr(data, "__next__") or iter(data) is iter(data)):
        raise DataError(_ONCE)


def _together(batches: list[Batch]) -> Batch:
    try:
        return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    except RuntimeError as error:
        raise DataError(f"the inputs of these batches cannot be put together: {error}") from None


@torch.no_grad()
def _count_classes(network: nn.Module, x: Tensor) -> int:
    was_training = network.training
    network.eval()
    first = next(network.parameters())
    try:
        logits = network(x.to(first.device))
    except RuntimeError as error:
        words = f"{type(network).__name__} cannot be run on a batch {x.dtype} {list(x.shape)}"
        raise DataError(f"{words}: {error}") from error
    network.train(was_training)
    if logits.dim() != 2 or len(logits) != len(x):
        raise DataError(
            f"{type(network).__name__} gives {list(logits.shape)} for a batch of {len(x)}: wanted are logits "
            f"[{len(x)}, classes], a row a sample"
        )
    if logits.shape[1] == 1:
        raise DataError(
            f"{type(network).__name__} has one output unit, of which the cross-entropy is always 0: give it two "
            "outputs, and labels 0 and 1"
        )
    return int(logits.shape[1])
