"""The dense network and its sparse self, which concrete searches compare.

The weights of searches side by side are one buffer [lanes, N]: what is done to all of them is done at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from prune_bench.config import Precision
from prune_bench.packing import lane_outputs
from prune_bench.precision import run_in


class Layout:
    """Where each layer's weights lie in a buffer [lanes, N], the layers of a lane one after the other.

    Args:
        weights: The (packed) weights by name, [lanes x ..., ...] each.
        lanes: How many networks they hold side by side.

    Attributes:
        names: Names of the weights.
        memory: Memory layout of convolutions' weights; the network's own, which would else be made in each pass.
    """

    def __init__(self, weights: Mapping[str, Tensor], lanes: int) -> None:
        self._lanes, self.memory = lanes, torch.contiguous_format
        self._shapes = {name: (len(weight) // lanes, *weight.shape[1:]) for name, weight in weights.items()}
        self.names = frozenset(self._shapes)
        self.sizes = [weight.numel() // lanes for weight in weights.values()]

    def flatten(self, layers: Mapping[str, Tensor]) -> Tensor:
        """Tensors of the weights' shapes as one, [lanes, N]."""
        return torch.cat([layers[name].reshape(self._lanes, -1) for name in self._shapes], 1)

    def layers(self, flat: Tensor) -> dict[str, Tensor]:
        """[lanes, N], or [N] of a single lane, as tensors of the packed weights' shapes."""
        lanes = len(flat) if flat.dim() == 2 else 1
        pieces = zip(flat.split(self.sizes, -1), self._shapes.items())
        return {name: self._shaped(piece, (lanes * first, *rest)) for piece, (name, (first, *rest)) in pieces}

    def _shaped(self, piece: Tensor, shape: tuple[int, ...]) -> Tensor:
        layer = piece.reshape(shape)
        return layer.contiguous(memory_format=self.memory) if len(shape) == 4 else layer


@dataclass(frozen=True)
class Dense:
    """The dense networks of searches side by side; one that several searches share is there, and is run, once.

    Attributes:
        network: The distinct ones, packed.
        places: For each lane, which of them is its own; int64 [lanes], on the network's device.
        first: For each of them, the first lane of which it is; int64 [count], there too.
    """

    network: nn.Module
    places: Tensor
    first: Tensor

    @classmethod
    def of(cls, network: nn.Module, places: Sequence[int], device: torch.device) -> Dense:
        """Distinct networks side by side, and which is which lane's."""
        first = [places.index(place) for place in range(max(places) + 1)]
        return cls(network, *(torch.tensor(numbers, device=device) for numbers in (places, first)))

    def inputs(self, x: Tensor) -> Tensor:
        """What the distinct networks are given: [B, lanes x C, ...] to [B, count x C, ...]."""
        if len(self.first) == len(self.places):
            return x
        apart: Tensor = x.unflatten(1, (len(self.places), -1))
        return apart.index_select(1, self.first).flatten(1, 2)

    def spread(self, outputs: Tensor) -> Tensor:
        """To each lane its own: [B, count x F] to [lanes, B, F]."""
        apart: Tensor = lane_outputs(outputs, len(self.first))
        return apart if len(self.first) == len(self.places) else apart.index_select(0, self.places)


def distinct(networks: Sequence[nn.Module], streams: Sequence[int]) -> tuple[int, ...]:
    """For each lane's network its number among the distinct ones: those that are equal and see the same batches.

    Args:
        networks: Each lane's.
        streams: For each lane, which batches it sees: the same number, the same batches.
    """
    first: list[int] = []
    places = []
    for lane, network in enumerate(networks):
        same = [i for i, f in enumerate(first) if streams[f] == streams[lane] and _equal(networks[f], network)]
        places.append(same[0] if same else len(first))
        first += [] if same else [lane]
    return tuple(places)


def _equal(one: nn.Module, other: nn.Module) -> bool:
    values, others = ([*network.parameters(), *network.buffers()] for network in (one, other))
    return all(torch.equal(a, b) for a, b in zip(values, others))


@dataclass(frozen=True)
class Pair:
    """The dense network and its sparse self, or packed ones and theirs.

    Attributes:
        network: What is called with masked weights; its own prunable weights are not read.
        layout: Where each layer lies in the two buffers.
        weights: The dense prunable weights w, [lanes, N].
        mask: The relaxed or hard mask m, [lanes, N], in [0, 1].
        against: The dense networks.
        precision: Arithmetic of the passes.
    """

    network: nn.Module
    layout: Layout
    weights: Tensor
    mask: Tensor
    against: Dense
    precision: Precision = "float32"

    @property
    def lanes(self) -> int:
        """Networks that stand side by side."""
        return len(self.mask)

    def sparse(self, x: Tensor) -> Tensor:
        """f(x; m * w): logits [B, lanes x classes]."""
        return self.run(self.weights * self.mask, x)

    def run(self, weights: Tensor, x: Tensor, others: Mapping[str, Tensor] | None = None) -> Tensor:
        """f(x; weights), [lanes, N]: logits [B, lanes x classes].

        Args:
            weights: The prunable ones.
            x: Inputs.
            others: Parameters that take the place of the network's own, by name.
        """
        layers = {**self.layout.layers(weights), **(others or {})}
        return run_in(self.precision, lambda images: functional_call(self.network, layers, (images,)), x)

    def other_parameters(self) -> dict[str, Tensor]:
        """Copies to differentiate by of what is not prunable: normalisation, biases, layers that stay whole."""
        named = self.network.named_parameters()
        return {name: p.detach().requires_grad_() for name, p in named if name not in self.layout.names}

    def dense(self, x: Tensor) -> Tensor:
        """f(x; w), without gradient: logits [lanes, B, classes]."""
        with torch.no_grad():
            return self.against.spread(run_in(self.precision, self.against.network, self.against.inputs(x)))
