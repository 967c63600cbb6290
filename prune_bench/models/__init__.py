"""The networks that are pruned, one file a family."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import nn

from prune_bench.errors import ConfigError
from prune_bench.models import mlp, resnet, torchvision_resnet, vgg
from prune_bench.models.initialisers import initialise_
from prune_bench.models.registry import Builder, models
from prune_bench.options import read_options
from prune_bench.randomness import derive_seed
from prune_bench.wrappers import as_logits, unwrapped

__all__ = ["Builder", "build_model", "initialise_", "models"]


def build_model(
    name: str,
    options: Any,
    *,
    num_classes: int,
    generator: torch.Generator,
    input_shape: Sequence[int] = (),
    in_channels: int = 0,
    image_size: int = 0,
) -> nn.Module:
    """The network called ``name`` on the CPU, in float32, its weights drawn by :func:`initialise_`.

    Args:
        name: As registered.
        options: An instance of its options dataclass, or a mapping of option names to values.
        num_classes: Logits.
        generator: A CPU generator, the only source of randomness; the global one is left as it was.
        input_shape: Of one sample, (C, H, W).
        in_channels: C of square images, instead of ``input_shape``.
        image_size: Their H and W.

    Raises:
        ConfigError: There is no such network, or an option is unknown or has no such value.
    """
    entry = models.find(name, "model.name")
    if isinstance(options, Mapping):
        options = read_options(entry.options, options, "model")
    shape = tuple(input_shape) or (in_channels, image_size, image_size)
    size: dict[str, Any] = {"in_channels": shape[0], "image_size": shape[-1]}
    if "input_shape" in inspect.signature(entry.build).parameters:
        size["input_shape"] = shape
    with torch.random.fork_rng(devices=[]):
        # A registered network may hold parameters that initialise_ does not know: let the generator decide them too.
        torch.default_generator.manual_seed(derive_seed(generator.initial_seed(), "construction"))
        network = entry.build(options, num_classes=num_classes, **size)
    network = unwrapped(network)
    if isinstance(network, torch.jit.ScriptModule):
        raise ConfigError(
            "model.name", name, "makes a scripted network, whose layers cannot be seen: leave it in Python"
        )
    network.register_forward_hook(as_logits)
    return initialise_(network, generator)


class _CallablePackage(ModuleType):
    """``prune_bench.models`` is this package and, in the public API, a function beside ``methods``."""

    def __call__(self) -> list[str]:
        """The names of the networks there are."""
        return list(models)


sys.modules[__name__].__class__ = _CallablePackage
