"""The networks by name; other packages add theirs through the entry-point group ``prune_bench.models``."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from prune_bench.registry import Registry


class Builder(Protocol):
    """What is registered: a function that makes a network; its weights are drawn afterwards, by ``build_model``.

    One that has a parameter ``input_shape`` is given the shape of one sample, (C, H, W), too.
    """

    def __call__(self, options: Any, *, in_channels: int, image_size: int, num_classes: int) -> nn.Module:
        """A network from float32 [B, in_channels, H, W] to logits [B, num_classes].

        Args:
            options: An instance of the registered dataclass.
            in_channels: C.
            image_size: W; images may be higher or lower than wide.
            num_classes: Logits.
        """


models: Registry[Builder] = Registry("model", "prune_bench.models")
"""Networks, one file a family; importing :mod:`prune_bench.models` registers them all."""
