"""Masks: which weights a pruned network keeps.

A mask keeps an exact number of weights, whatever ties the scores hold: weights are ranked by a stable sort, and of
two equal scores the weight that comes first in module order ranks higher.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import prune as torch_prune

from prune_bench.hold import Hold
from prune_bench.parametrised import check_plain, weight_identity
from prune_bench.randomness import generator
from prune_bench.torch_prune import check_torch_prune, warn_of_uncalled
from prune_bench.wrappers import unwrapped

Scores = Mapping[str, Tensor]
"""One tensor a prunable weight, of the weight's shape: a higher score is kept longer."""


def prunable_modules(network: nn.Module) -> dict[str, nn.Module]:
    """Convolutions and linear layers by the name of their weight, in module order.

    A weight that several layers share appears once, under the first of them. Biases and normalisation parameters are
    never prunable (2512.07142, section 4), nor is a layer with an attribute ``prunable`` that is False.
    """
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()
    for name, module in unwrapped(network).named_modules():
        if _is_prunable(module) and _identity(module) not in seen:
            seen.add(_identity(module))
            found[f"{name}.weight".lstrip(".")] = module
    return found


def prunable_weights(network: nn.Module) -> dict[str, Tensor]:
    """The weights of :func:`prunable_modules`, by name.

    Raises:
        ValueError: The network has none, has lazy layers that have not seen a batch, or computes a weight from other
            tensors (a parametrisation, weight or spectral normalisation, ``torch.nn.utils.prune``).
    """
    modules = prunable_modules(network)
    for name, module in modules.items():
        check_plain(name, module)
    weights = {name: cast("Tensor", module.weight) for name, module in modules.items()}
    if not weights and isinstance(network, torch.jit.ScriptModule):
        raise ValueError("a scripted or traced network's layers cannot be seen: give the module it was made from")
    if not weights:
        raise ValueError(
            f"{type(network).__name__} has no convolution and no linear layer: nothing in it is prunable"
        )
    for name, weight in weights.items():
        if nn.parameter.is_lazy(weight):
            raise ValueError(f"{name} is not initialised: run one batch through the network first")
    return weights


def kept_count(density: float, total: int) -> int:
    """Weights that a mask of this density keeps of ``total``: exactly round(density x total).

    Raises:
        ValueError: The density lies outside (0, 1].
    """
    if not 0 < density <= 1:
        raise ValueError(f"density is {density}, and must lie in (0, 1]: it is the fraction of weights kept")
    return round(density * total)


class Mask(Mapping[str, Tensor]):
    """Named boolean tensors, one a prunable weight: true where the weight is kept.

    Args:
        layers: Boolean tensors of the weights' shapes, by the weights' names.

    Raises:
        TypeError: A tensor is not boolean.
    """

    def __init__(self, layers: Mapping[str, Tensor]) -> None:
        for name, keep in layers.items():
            if keep.dtype != torch.bool:
                raise TypeError(f"the mask of {name} is {keep.dtype}, and must be torch.bool")
        self._layers = dict(layers)

    @classmethod
    def full(cls, network: nn.Module) -> Mask:
        """The mask that keeps every prunable weight of ``network``."""
        weights = prunable_weights(network)
        return cls({name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()})

    @classmethod
    def side_by_side(cls, masks: Sequence[Mask]) -> Mask:
        """The mask of packed networks: each layer's masks one after the other along dimension 0."""
        if len(masks) == 1:
            return masks[0]
        return cls({name: torch.cat([mask[name] for mask in masks]) for name in masks[0]})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Mask:
        """Reads what :meth:`save` wrote.

        Raises:
            ValueError: The file is no mask, or is damaged.
        """
        try:
            path = Path(path).expanduser()
            return cls({name: keep.bool() for name, keep in _module_order(load_file(path), path).items()})
        except SafetensorError as error:
            raise ValueError(f"{path} is not a mask that can be read: {error}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the mask as safetensors: bool tensors under their own names."""
        order = "\n".join(self._layers)
        layers = {name: keep.contiguous().cpu() for name, keep in self._layers.items()}
        path = Path(path).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(layers, path, metadata={"order": order})

    @property
    def kept(self) -> int:
        """How many weights are kept."""
        return sum(self._kept_by_layer())

    @property
    def total(self) -> int:
        """How many prunable weights there are."""
        return sum(keep.numel() for keep in self._layers.values())

    @property
    def density(self) -> float:
        """Kept fraction of all prunable weights."""
        return self.kept / self.total

    @property
    def layer_densities(self) -> dict[str, float]:
        """Kept fraction of each layer's weights."""
        kept = self._kept_by_layer()
        return {name: count / keep.numel() for count, (name, keep) in zip(kept, self._layers.items())}

    def to(self, device: torch.device | str) -> Mask:
        """The same mask on ``device``."""
        return Mask({name: keep.to(device) for name, keep in self._layers.items()})

    @torch.no_grad()
    def apply_(self, network: nn.Module) -> None:
        """Sets the pruned weights of ``network`` to exactly 0.0, in place, once.

        It does not last: the next step of an optimiser moves them again. To train, use :meth:`hold_`.

        Raises:
            ValueError: The mask is of another network.
        """
        weights = prunable_weights(network)
        self._check_fits(weights)
        for name, keep in self._layers.items():
            weights[name].masked_fill_(~keep.to(weights[name].device), 0.0)

    def hold_(self, network: nn.Module) -> Hold:
        """Sets the pruned weights of ``network`` to exactly 0.0 and keeps them so while it is trained.

        Every optimiser of ``torch.optim`` and its subclasses, gradient clipping and scaling, DataParallel and
        DistributedDataParallel see a network whose pruned weights have no gradient. Parameters, their names and the
        ``state_dict`` stay as they are. Deep copies and pickled networks are held too. A former hold is replaced.

        Args:
            network: The network the mask is of, or a wrapper of it.

        Returns:
            The hold; its ``release()`` ends it. :meth:`held_by` finds that of a copy.

        Raises:
            ValueError: The mask is of another network, a weight is no parameter (``torch.nn.utils.prune`` or a
                parametrisation is on it), or a part of the network is held by itself.

        Example:
            >>> hold = mask.hold_(network)
            >>> train(network)  # with any loop
            >>> hold.release()
        """
        network = unwrapped(network)
        weights = prunable_weights(network)
        self._check_fits(weights)
        if (before := Hold.of(network)) is not None:
            before.release()
        hold = Hold({name: ~keep.to(weights[name].device) for name, keep in self._layers.items()})
        hold.begin(network)
        return hold

    @staticmethod
    def held_by(network: nn.Module) -> Hold | None:
        """The hold of a mask on ``network``, or None; a copy of a held network has its own."""
        return Hold.of(unwrapped(network))

    def shuffle_layers(self, seed: int) -> Mask:
        """The mask with its positions permuted inside each layer: layer counts stay (2009.08576, 2009.11094)."""
        random = generator(seed, "layer_shuffle")
        shuffled = {}
        for name, keep in self._layers.items():
            order = torch.randperm(keep.numel(), generator=random).to(keep.device)
            shuffled[name] = keep.flatten()[order].view(keep.shape)
        return Mask(shuffled)

    def to_torch_prune(self, network: nn.Module) -> nn.Module:
        """Puts the mask on ``network`` as ``torch.nn.utils.prune`` does (``weight_orig`` and ``weight_mask``).

        torch makes the masked weight anew when a layer is called. It cannot be used where a weight is read and its
        layer is not called, as attention and transformers do: use :meth:`hold_` there. A layer that turns out not to
        be called is warned of in the first forward pass.

        Returns:
            The same network, changed in place.

        Raises:
            ValueError: The mask is of another network, is held on it, or the network has an attention layer of torch.
        """
        weights = prunable_weights(network)
        self._check_fits(weights)
        check_torch_prune(network)
        # Every layer of a shared weight is pruned, not the first alone: the others would go on with the whole weight.
        names = {_identity(module): name for name, module in prunable_modules(network).items()}
        for module in [m for m in network.modules() if _is_prunable(m)]:
            name = names[_identity(module)]
            torch_prune.custom_from_mask(module, "weight", self._layers[name].to(weights[name].device))
        warn_of_uncalled(network)
        return network

    @classmethod
    def from_torch_prune(cls, network: nn.Module) -> Mask:
        """The mask that ``torch.nn.utils.prune`` has put on ``network``; unpruned layers count as kept whole."""
        layers = {}
        for name, module in prunable_modules(network).items():
            mask = getattr(module, "weight_mask", None)
            layers[name] = (
                torch.ones_like(module.weight, dtype=torch.bool)  # type: ignore[arg-type]
                if mask is None
                else mask.bool()
            )
        return cls(layers)

    def _kept_by_layer(self) -> list[int]:
        """One wait for the device, and not one a layer."""
        if not self._layers:
            return []
        counts: list[int] = torch.stack([keep.sum() for keep in self._layers.values()]).tolist()
        return counts

    def _check_fits(self, weights: Mapping[str, Tensor]) -> None:
        ours = {name: tuple(keep.shape) for name, keep in self._layers.items()}
        theirs = {name: tuple(weight.shape) for name, weight in weights.items()}
        if ours != theirs:
            odd = sorted(set(ours.items()) ^ set(theirs.items()))[:4]
            raise ValueError(f"the mask is of another network; these names or shapes differ: {odd}")

    def __getitem__(self, name: str) -> Tensor:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        return list(self) == list(other) and all(torch.equal(self[name], other[name]) for name in self)

    def __repr__(self) -> str:
        return f"Mask(kept={self.kept} of {self.total}, density={self.density:.4g}, layers={len(self)})"


def _is_prunable(module: nn.Module) -> bool:
    return isinstance(module, (_ConvNd, nn.Linear)) and getattr(module, "prunable", True) is not False


def _identity(module: nn.Module) -> int:
    """Tells weights apart, of layers that share one too."""
    return weight_identity(module)


def _module_order(layers: dict[str, Tensor], path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """safetensors sorts names; the module order decides ties and shuffles, so it is kept in the metadata."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        order = (file.metadata() or {}).get("order", "").split("\n")
    if sorted(order) != sorted(layers):
        raise ValueError(f"{path} is not a mask: it does not name its layers' order")
    return {name: layers[name] for name in order}
