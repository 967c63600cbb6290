"""Layers whose weight is computed from other tensors: a mask on such a weight would be lost without a word."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize


def weight_identity(module: nn.Module) -> int:
    """A number that layers share if, and only if, they share their weight.

    A parametrised weight is a new tensor at every access, whose address says nothing.
    """
    if parametrize.is_parametrized(module, "weight"):
        return id(module.parametrizations.weight)  # type: ignore[union-attr]
    for holder in ("weight", "weight_orig", "weight_v"):
        if isinstance(own := module._parameters.get(holder), nn.Parameter):
            return id(own)
    return id(module.__dict__.get("weight", module))


def check_plain(name: str, module: nn.Module) -> None:
    """Refuses a layer whose weight is no parameter of its own.

    Args:
        name: The weight's name in the network, for example ``features.0.weight``.
        module: The layer.

    Raises:
        ValueError: It names the layer, what makes its weight, and how to undo that.
    """
    if isinstance(module._parameters.get("weight"), nn.Parameter):
        return
    layer = name.rpartition(".")[0] or "the network itself"
    cause, mend = _made_by(module)
    raise ValueError(f"the weight of layer {layer} is no parameter, but is computed by {cause}: {mend}")


def _made_by(module: nn.Module) -> tuple[str, str]:
    undo = "undo that before pruning, with"
    if parametrize.is_parametrized(module, "weight"):
        kinds = ", ".join(type(step).__name__.lstrip("_") for step in module.parametrizations.weight)  # type: ignore[union-attr]
        remove = "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')"
        return f"a parametrisation ({kinds})", f"{undo} {remove}"
    if "weight_mask" in module._buffers:
        kept = "prune_bench.Mask.from_torch_prune(network) reads its mask"
        return "torch.nn.utils.prune", f"{undo} torch.nn.utils.prune.remove(layer, 'weight'); {kept}"
    if {"weight_g", "weight_v"} <= set(module._parameters):
        return "torch.nn.utils.weight_norm", f"{undo} torch.nn.utils.remove_weight_norm(layer)"
    if "weight_orig" in module._parameters:
        return "torch.nn.utils.spectral_norm", f"{undo} torch.nn.utils.remove_spectral_norm(layer)"
    return f"{type(module).__name__} itself", "give the layer an nn.Parameter called weight"
