"""Batches from raw images, on whatever device holds them: normalisation, flips and crops without a loop."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Augmentation = Literal["none", "flip_crop"]
PAD = 4
"""Pixels that a crop may be shifted by in each direction."""


class FlipCrop(NamedTuple):
    """One sample's alterations a row.

    Attributes:
        flips: bool [N], mirrored left to right before the crop.
        shifts: int64 [N, 2], rows and columns from the padded image's corner, in 0 .. 2 x PAD.
    """

    flips: Tensor
    shifts: Tensor


def draw_flip_crop(samples: int, generator: torch.Generator) -> FlipCrop:
    """Fair flips and uniform shifts for ``samples`` images, on the generator's device."""
    device = generator.device
    flips = torch.randint(2, (samples,), generator=generator, device=device).bool()
    return FlipCrop(flips, torch.randint(2 * PAD + 1, (samples, 2), generator=generator, device=device))


def flip_crop(images: Tensor, index: Tensor, how: FlipCrop) -> Tensor:
    """The chosen images mirrored, padded by reflection and cropped to their own size (1512.03385, section 4.2).

    All of it is one gather: a pixel of the result is looked up where the flip, the crop and the reflection lead to.

    Args:
        images: uint8 [N, C, H, W], H and W above PAD.
        index: int64 [B], which images.
        how: For each of the B, on the images' device.

    Returns:
        uint8 [B, C, H, W].
    """
    _, channels, height, width = images.shape
    rows = _reflected(height, how.shifts[:, 0])
    columns = _reflected(width, how.shifts[:, 1])
    columns = torch.where(how.flips[:, None], width - 1 - columns, columns)
    channel = torch.arange(channels, device=images.device)
    return images[index[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None]]


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Pixels of uint8 [B, C, H, W] as float32 in units of the data's deviation.

    Args:
        images: Raw images.
        mean: float32 [C, 1, 1], of pixels in 0 .. 1.
        std: float32 [C, 1, 1].
    """
    return images.to(torch.float32).div_(255).sub_(mean).div_(std)


def _reflected(size: int, shifts: Tensor) -> Tensor:
    """Where each pixel of a crop lies in the unpadded image; [B, size]."""
    position = torch.arange(size, device=shifts.device) + shifts[:, None] - PAD
    last = size - 1
    return last - (last - position.abs()).abs()
