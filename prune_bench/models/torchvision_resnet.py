"""The ImageNet ResNets (1512.03385, table 1) as torchvision builds them, without running statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torchvision
from torch import nn

from prune_bench.models.layers import batch_norm
from prune_bench.models.registry import models

SMALL_IMAGE = 64
"""Pixels a side up to which the stem is a 3x3 convolution that keeps the resolution."""


@dataclass(frozen=True, kw_only=True)
class TorchvisionResNetOptions:
    """The ImageNet ResNets have no options."""


def adapted(build: Callable[..., nn.Module], *, in_channels: int, image_size: int, num_classes: int) -> nn.Module:
    """A torchvision ResNet with the stem that the images need and no ReLU that overwrites its input.

    Args:
        build: torchvision's function that makes the network.
        in_channels: Channels of an image.
        image_size: Its pixels a side.
        num_classes: Logits.
    """
    network = build(weights=None, num_classes=num_classes, norm_layer=batch_norm)
    if image_size <= SMALL_IMAGE:
        network.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    else:
        network.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return network


def _register(depth: int) -> None:
    name = f"resnet{depth}"

    @models.add(
        name,
        options=TorchvisionResNetOptions,
        source="1512.03385",
        summary=f"torchvision's ResNet-{depth}; images up to {SMALL_IMAGE} pixels get a 3x3 stem and no first pool.",
    )
    def build(options: TorchvisionResNetOptions, *, in_channels: int, image_size: int, num_classes: int) -> nn.Module:
        make = getattr(torchvision.models, name)
        return adapted(make, in_channels=in_channels, image_size=image_size, num_classes=num_classes)


for _depth in (18, 50):
    _register(_depth)
