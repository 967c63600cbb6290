"""Fully connected networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from prune_bench.models.registry import models
from prune_bench.options import Positive


@dataclass(frozen=True, kw_only=True)
class MLPOptions:
    """Options of the fully connected networks."""

    hidden: tuple[Positive, ...] = (300, 100)
    """Units of each hidden layer."""


@models.add(
    "lenet300_100",
    options=MLPOptions,
    source="LeCun et al. 1998, Gradient-based learning applied to document recognition",
    summary="LeNet-300-100: two hidden layers on the flattened image, with biases.",
)
def lenet(
    options: MLPOptions, *, in_channels: int, image_size: int, num_classes: int, input_shape: tuple[int, ...] = ()
) -> nn.Module:
    """Linear layers with ReLUs between, on flattened samples of any shape."""
    sizes = [math.prod(input_shape or (in_channels, image_size, image_size)), *options.hidden]
    hidden = [layer for inputs, outputs in pairwise(sizes) for layer in (nn.Linear(inputs, outputs), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], num_classes))
