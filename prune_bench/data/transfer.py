"""Data on its way to a device: raw pixels are copied there once, batches without making the host wait."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef, WeakTensorKeyDictionary

Item = TypeVar("Item")

_copies: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""For each source tensor: device -> (version of the source that was copied, weak reference to the copy)."""


def shared_copy(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A copy of ``tensor`` on ``device``, the same one for all who ask while one of them keeps it.

    Nothing is kept alive here. A source that was changed in place is copied anew.

    Args:
        tensor: Large and constant, such as all images of a data set.
        device: Where; a tensor that is already there is returned itself.
    """
    place = torch.empty(0, device=device).device  # "cuda" is the current GPU
    if tensor.device == place:
        return tensor
    copies = _copies.setdefault(tensor, {})
    version, reference = copies.get(place, (None, None))
    found = reference() if version == tensor._version else None
    if found is None:
        found = tensor.to(place)
        copies[place] = (tensor._version, TensorWeakRef(found))
    return found


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``; a copy to a GPU joins its queue, and the host does not wait for it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        # From memory that is not pinned a copy waits for all that is queued. The other way round, the host would
        # read numbers that are not there yet.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items, each taken from ``items`` while its predecessor is still in use."""
    held: list[Item] = []
    for item in items:
        yield from held
        held = [item]
    yield from held
