"""What labels must be, checked where data comes in: wrong ones would be dropped or counted wrongly, and not told."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import Tensor

from prune_bench.data.protocol import Samples
from prune_bench.errors import DataError

BRIGHTEST = 255
"""The largest raw pixel."""
_SHOWN = 3


def check_labels(labels: Tensor, samples: int, classes: int) -> Tensor:
    """Labels as class indices, int64 [samples]; integers of other widths and [samples, 1] are taken for the same.

    Args:
        labels: What a user or a data set gives.
        samples: Inputs they belong to.
        classes: Labels are 0 .. classes - 1.

    Raises:
        DataError: They are something else; says what was found, what is wanted and how to come by it.
    """
    found = f"{str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}"
    wanted = f"wanted are class indices, int64 [{samples}], from 0 to {classes - 1}"
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(f"the labels are {_kind(labels)}{found}: {wanted}; {_mend(labels, classes)}")
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels.squeeze(1)
    if labels.dim() != 1:
        raise DataError(f"the labels are {_kind(labels)}{found}: {wanted}; {_mend(labels, classes)}")
    if len(labels) != samples:
        raise DataError(f"the labels are {found}, and there are {samples} inputs in the batch: {wanted}")
    labels = labels.long().contiguous()
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        odd = labels[(labels < 0) | (labels >= classes)]
        shown = ", ".join(map(str, odd.unique().tolist()[:_SHOWN]))
        raise DataError(
            f"the labels run from {int(labels.min())} to {int(labels.max())}, {len(odd)} of {len(labels)} are out of "
            f"range (such as {shown}): {wanted}; {_shift(labels, classes)}"
        )
    return labels


def check_samples(name: str, splits: tuple[Samples, Samples], classes: int) -> tuple[Samples, Samples]:
    """Samples whose pixels are 0 .. 255 and whose labels are int64 [N]; pixels that are 0 .. 1 are scaled up.

    Args:
        name: Of the data set.
        splits: Training and test samples.
        classes: Labels are 0 .. classes - 1.

    Raises:
        DataError: Pixels are on another scale, or labels are something else.
    """
    try:
        images = _as_bytes_are([split.images for split in splits])
        labels = [check_labels(split.labels, len(split.images), classes) for split in splits]
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    train, test = map(Samples, images, labels)
    return train, test


def _as_bytes_are(splits: list[Tensor]) -> list[Tensor]:
    """Images with pixels of 0 .. 255, as batches are made of."""
    if all(images.dtype == torch.uint8 and images.dim() == 4 for images in splits):
        return splits
    ends = [(float(images.min()), float(images.max())) for images in splits if images.numel()]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    found = f"{splits[0].dtype} {list(splits[0].shape)} from {low:g} to {high:g}"
    known = (
        all(images.dim() == 4 and images.dtype != torch.bool for images in splits) and 0 <= low <= high <= BRIGHTEST
    )
    if not known or any(bool(images.isnan().any()) for images in splits):
        raise DataError(
            f"the images are {found}: wanted are images [N, C, H, W] of raw pixels, uint8 0 .. 255 or floats 0 .. 1; "
            "mean and std are taken off later"
        )
    is_unit = high <= 1 and all(images.is_floating_point() for images in splits)
    return [images.float() * BRIGHTEST if is_unit else images for images in splits]


def check_contributed(data: Any, batch_size: int = 2) -> None:
    """Looks at a few batches of a data set that is not made of this package's classes.

    Args:
        data: The data set; its first training and evaluation batches are looked at.
        batch_size: Of these.

    Raises:
        DataError: Its labels are not what they must be.
    """
    parts = {"balanced(1)": iter([data.balanced(1)]), "epoch(0)": data.epoch(0, batch_size, augment=False)}
    if hasattr(data, "evaluation"):
        parts |= {f"evaluation({split!r})": data.evaluation(split, batch_size) for split in ("validation", "test")}
    for part, batches in parts.items():
        for x, y in islice(batches, 1):
            try:
                checked = check_labels(y, len(x), data.num_classes)
            except DataError as error:
                raise DataError(f"{part} of {_name(data)}: {error}") from None
            if checked.shape != y.shape or checked.dtype != y.dtype:
                raise DataError(
                    f"{part} of {_name(data)}: the labels are {y.dtype} {list(y.shape)}: wanted are int64 "
                    f"[{len(x)}]; use labels.flatten().long()"
                )


def _name(data: Any) -> str:
    return f"the data set {getattr(data, 'name', type(data).__name__)}"


def _kind(labels: Tensor) -> str:
    if labels.is_floating_point() and bool(labels.isnan().any()):
        return "NaN in part, "
    return "one-hot, " if _is_one_hot(labels) else ""


def _is_one_hot(labels: Tensor) -> bool:
    if labels.dim() != 2 or labels.shape[1] < 2 or labels.is_complex():
        return False
    return bool(((labels == 0) | (labels == 1)).all()) and bool((labels.sum(1) == 1).all())


def _mend(labels: Tensor, classes: int) -> str:
    if labels.dim() == 2 and labels.shape[1] == classes and classes > 1:
        return "use labels.argmax(1)"
    if labels.is_floating_point() and bool(labels.isnan().any()):
        return "leave out the samples without a label"
    if labels.dim() <= 1:
        return "use labels.long() if they are class indices"
    return "give one label a sample"


def _shift(labels: Tensor, classes: int) -> str:
    low, high = int(labels.min()), int(labels.max())
    if low == 1 and high == classes:
        return "use labels - 1"
    if low < 0:
        return "leave out the samples whose label is negative"
    return "number the classes from 0, or give the network as many outputs as there are classes"
