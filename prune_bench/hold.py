"""A mask that lasts: pruned weights stay exactly zero while a network is trained, by whatever trains it.

Gradients of pruned weights are zeroed before anything reads them (clipping, unscaling, DDP's buckets). What an
optimiser moves all the same, by momentum from before, is zeroed after its step. What is written in between, by a
loaded checkpoint or by hand, is zeroed before the next forward pass. Weights stay plain parameters under their names.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle, unserializable_hook
from torch.utils.weak import WeakTensorKeyDictionary


class Hold:
    """The hold of a mask on a network; copies of the network, pickled ones too, have their own.

    Attributes:
        pruned: For each held weight a bool tensor, true where it is pruned; on the CPU or where it was last used.
    """

    def __init__(self, pruned: Mapping[str, Tensor]) -> None:
        self.pruned = dict(pruned)
        self._attached: dict[str, tuple[nn.Parameter, RemovableHandle]] = {}
        self._network: nn.Module | None = None

    @classmethod
    def of(cls, network: nn.Module) -> Hold | None:
        """The hold on ``network``, or None."""
        for hook in network._forward_pre_hooks.values():
            hold = getattr(hook, "__self__", None)
            if isinstance(hold, cls):
                hold._network = network
                return hold
        return None

    def begin(self, network: nn.Module) -> None:
        """Zeroes the pruned weights and their gradients, and keeps them so from now on.

        Raises:
            ValueError: A weight is held already, through a part of this network or through a whole of it.
        """
        for name in self.pruned:
            if _parameter(network, name) in _HELD:
                raise ValueError(f"{name} is held already, by a hold on another module: release that first")
        self._network = network
        network.register_forward_pre_hook(self._before_forward, prepend=True)
        network.register_load_state_dict_post_hook(self._after_load)
        self._enforce(network)

    def release(self) -> None:
        """Lets go: from now on all weights are trained, the pruned ones from zero. Once more does nothing."""
        network, self._network = self._network, None
        for parameter, handle in self._attached.values():
            handle.remove()
            _HELD.pop(parameter, None)
        self._attached.clear()
        hooks = [] if network is None else [network._forward_pre_hooks, network._load_state_dict_post_hooks]
        for kept in hooks:
            for key in [key for key, hook in kept.items() if getattr(hook, "__self__", None) is self]:
                del kept[key]

    def _before_forward(self, network: nn.Module, args: Any) -> None:
        # DataParallel's replicas have copies of the weights; their originals are held.
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined]
        if tracing or getattr(network, "_is_replica", False):
            return
        # A compiled pass is left whole: gradients and steps are looked after outside of it.
        if torch.compiler.is_compiling() and self._attached:
            return
        self._enforce(network)

    def _after_load(self, network: nn.Module, _: Any) -> None:
        self._enforce(network)

    def _enforce(self, network: nn.Module) -> None:
        self._network = network
        for name in self.pruned:
            parameter = _parameter(network, name)
            if parameter is None:  # torch.func.functional_call has put a tensor of its caller's there
                continue
            self._attach(name, parameter)
            # By .data, because a graph that was recorded before must not take its weights for changed.
            _zero_(parameter.data, self._where(name, parameter))
            if parameter.grad is not None:
                _zero_(parameter.grad.data, self._where(name, parameter))

    def _attach(self, name: str, parameter: nn.Parameter) -> None:
        """Has the gradient of this parameter zeroed; it is another one after a copy or an assigning load."""
        known = self._attached.get(name)
        if (known is not None and known[0] is parameter) or not parameter.requires_grad:
            return
        if known is not None:
            known[1].remove()
        handle = parameter.register_hook(_masking(self, name))
        self._attached[name] = (parameter, handle)
        _HELD[parameter] = (weakref.ref(self), name)
        _watch_optimizers()

    def _where(self, name: str, like: Tensor) -> Tensor:
        if self.pruned[name].device != like.device:
            self.pruned[name] = self.pruned[name].to(like.device)
        return self.pruned[name]

    def __getstate__(self) -> dict[str, Any]:
        return {"pruned": self.pruned, "_attached": {}, "_network": None}


def released_copy(network: nn.Module) -> nn.Module:
    """A deep copy that no mask holds; for what puts masks of its own on a copy."""
    copied = copy.deepcopy(network)
    for module in copied.modules():
        if (hold := Hold.of(module)) is not None:
            hold.release()
    return copied


_HELD: Any = WeakTensorKeyDictionary()
"""Held parameters of this process, each with its hold (by a weak reference: values are kept alive) and name."""
_watching: list[RemovableHandle] = []


def _watch_optimizers() -> None:
    if not _watching:
        _watching.append(register_optimizer_step_post_hook(_after_step))


def _after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    if not len(_HELD):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if (found := _HELD.get(parameter)) is not None:
                hold, name = found[0](), found[1]
                if hold is not None:
                    _zero_(parameter, hold._where(name, parameter))


def _masking(hold: Hold, name: str) -> Callable[[Tensor], Tensor]:
    @unserializable_hook  # type: ignore[untyped-decorator]
    def mask(gradient: Tensor) -> Tensor:
        # Filled and not multiplied: infinite times zero is no zero.
        return gradient.masked_fill(hold._where(name, gradient), 0.0)

    return mask  # type: ignore[no-any-return]


@torch.no_grad()
def _zero_(values: Tensor, pruned: Tensor) -> None:
    values.masked_fill_(pruned, 0.0)


def _parameter(network: nn.Module, name: str) -> nn.Parameter | None:
    path, _, last = name.rpartition(".")
    found = network.get_submodule(path)._parameters.get(last)
    return found if isinstance(found, nn.Parameter) else None
