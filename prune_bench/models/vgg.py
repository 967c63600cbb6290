"""VGG networks (1409.1556) with normalisation and one linear classifier.

The code of 2512.07142 has no fifth pool and leaves the classifier dense: ``last_pool`` and ``prune_classifier`` off.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from prune_bench.models.layers import batch_norm
from prune_bench.models.registry import models
from prune_bench.options import Positive, later


@dataclass(frozen=True, kw_only=True)
class VGGOptions:
    """Options of the VGG networks."""

    width: Positive = 64
    """Channels of the first stage; the later four have 2, 4, 8 and 8 times as many."""
    last_pool: bool = later(True)
    """Whether a pool ends the fifth stage too; without, the average is over what 32x32 images leave as 2x2."""
    prune_classifier: bool = later(True)
    """Whether the linear layer is prunable."""


# 1409.1556, table 1: convolutions in each of the five stages of columns A, D and E.
_STAGES = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_FACTORS = (1, 2, 4, 8, 8)


def vgg(depth: int, options: VGGOptions, *, in_channels: int, num_classes: int) -> nn.Sequential:
    """Five stages of 3x3 convolutions, ended by 2x2 max pools, then a global average and the classifier.

    Pools round sizes up, so that 8x8 images survive five of them; 32x32 images end as 1x1 maps, where batch
    normalisation has come before the last pool.

    Args:
        depth: 11, 16 or 19: convolutions and the paper's three linear layers, of which here one is left.
        options: Width, last pool and classifier.
        in_channels: Channels of an image.
        num_classes: Logits.
    """
    layers: list[nn.Module] = []
    channels = in_channels
    for convolutions, factor in zip(_STAGES[depth], _FACTORS):
        for _ in range(convolutions):
            layers.append(nn.Conv2d(channels, factor * options.width, 3, padding=1, bias=False))
            channels = factor * options.width
            layers += [batch_norm(channels), nn.ReLU()]
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    if not options.last_pool:
        layers.pop()
    classifier = nn.Linear(channels, num_classes)
    classifier.prunable = options.prune_classifier  # type: ignore[assignment]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier)


def _register(depth: int) -> None:
    @models.add(
        f"vgg{depth}",
        options=VGGOptions,
        source="1409.1556",
        summary=f"VGG-{depth} with normalisation, {depth - 3} convolutions and one linear layer.",
    )
    def build(options: VGGOptions, *, in_channels: int, image_size: int, num_classes: int) -> nn.Module:
        return vgg(depth, options, in_channels=in_channels, num_classes=num_classes)


for _depth in _STAGES:
    _register(_depth)
