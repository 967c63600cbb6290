"""VGG networks (1409.1556) with normalisation and one linear classifier, as in 2512.07142."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from prune_bench.models.layers import batch_norm
from prune_bench.models.registry import models
from prune_bench.options import Positive


@dataclass(frozen=True, kw_only=True)
class VGGOptions:
    """Options of the VGG networks."""

    width: Positive = 64
    """Channels of the first stage; the later four have 2, 4, 8 and 8 times as many."""


# 1409.1556, table 1: convolutions in each of the five stages of columns A, D and E.
_STAGES = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_FACTORS = (1, 2, 4, 8, 8)


def vgg(depth: int, width: int, *, in_channels: int, num_classes: int) -> nn.Sequential:
    """Five stages of 3x3 convolutions, each ended by a 2x2 max pool, then a global average and the classifier.

    Pools round sizes up, so that 8x8 images survive five of them; 32x32 images end as 1x1 maps, where batch
    normalisation has come before the last pool.

    Args:
        depth: 11, 16 or 19: convolutions and the paper's three linear layers, of which here one is left.
        width: Channels of the first stage.
        in_channels: Channels of an image.
        num_classes: Logits.
    """
    layers: list[nn.Module] = []
    channels = in_channels
    for convolutions, factor in zip(_STAGES[depth], _FACTORS):
        for _ in range(convolutions):
            layers.append(nn.Conv2d(channels, factor * width, 3, padding=1, bias=False))
            channels = factor * width
            layers += [batch_norm(channels), nn.ReLU()]
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)]
    return nn.Sequential(*layers, *head)


def _register(depth: int) -> None:
    @models.add(
        f"vgg{depth}",
        options=VGGOptions,
        source="1409.1556",
        summary=f"VGG-{depth} with normalisation, {depth - 3} convolutions and one linear layer.",
    )
    def build(options: VGGOptions, *, in_channels: int, image_size: int, num_classes: int) -> nn.Module:
        return vgg(depth, options.width, in_channels=in_channels, num_classes=num_classes)


for _depth in _STAGES:
    _register(_depth)
