"""Where ``torch.nn.utils.prune`` can be used: it makes a masked weight anew only when its layer is called."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from prune_bench.hold import Hold


def check_torch_prune(network: nn.Module) -> None:
    """Refuses networks of which it is known that torch's pruning breaks their training.

    Raises:
        ValueError: It has an attention layer of torch, shares a prunable weight with a layer of another kind, or is
            held.
    """
    layers = [module for module in network.modules() if isinstance(module, (_ConvNd, nn.Linear))]
    prunable = {id(module._parameters.get("weight")) for module in layers} - {id(None)}
    for name, module in network.named_modules():
        shared = [key for key, own in module._parameters.items() if id(own) in prunable]
        if shared and not (isinstance(module, (_ConvNd, nn.Linear)) and shared == ["weight"]):
            raise ValueError(
                f"{name}.{shared[0]} is the weight of a prunable layer too, and torch.nn.utils.prune would mask it "
                "in that layer only; use mask.hold_(network)"
            )
        if Hold.of(module) is not None:
            raise ValueError("the network is held by a mask: release() that first")
        if isinstance(module, nn.MultiheadAttention):
            raise ValueError(
                f"{name or type(module).__name__} reads the weight of its out_proj without calling it: under "
                "torch.nn.utils.prune a second backward pass fails; use mask.hold_(network), which lasts"
            )


def warn_of_uncalled(network: nn.Module) -> None:
    """Warns, after the first forward pass of a pruned network, of pruned layers that were not called in it."""
    pruned = {name: module for name, module in network.named_modules() if hasattr(module, "weight_mask")}
    if pruned.keys() != {""}:
        watch = _FirstPass(pruned)
        for name, module in pruned.items():
            watch.handles.append(module.register_forward_hook(partial(watch.note, name)))
        watch.handles.append(network.register_forward_hook(watch.end))


class _FirstPass:
    """Which layers are called; a class, so that a network that has not run yet can be pickled."""

    def __init__(self, names: Iterable[str]) -> None:
        self._uncalled = set(names)
        self.handles: list[RemovableHandle] = []

    def note(self, name: str, *_: Any) -> None:
        self._uncalled.discard(name)

    def end(self, *_: Any) -> None:
        for handle in self.handles:
            handle.remove()
        if self._uncalled:
            warnings.warn(
                f"the network ran without calling {', '.join(sorted(self._uncalled))}: where it reads their weights "
                "itself, torch.nn.utils.prune leaves them as they were; use mask.hold_(network)",
                stacklevel=2,
            )
