from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prune_bench.mask import Mask, prunable_weights
from prune_bench.metrics import effective_mask, mask_metrics

Node = tuple[int, int]
"""A level of the network and a flat (channel, y, x) position in it."""
Weight = tuple[str, int]
"""A layer's name and a flat index into its weight."""
Edge = tuple[Node, Node, Weight | None]


def edges_of(name: str, layer: nn.Module, shape: tuple[int, ...], level: int) -> Iterator[Edge]:
    """Which input position feeds which output position, through which weight, by the definition of the layer."""
    if isinstance(layer, nn.Linear):
        for o, i in product(range(layer.out_features), range(layer.in_features)):
            yield (level, i), (level + 1, o), (f"{name}.weight", o * layer.in_features + i)
    elif isinstance(layer, nn.Conv2d):
        yield from convolution_edges(name, layer, shape, level)
    else:
        # A layer without weights: an output depends on an input that moves it alone.
        for i in range(math.prod(shape)):
            one = torch.zeros(math.prod(shape))
            one[i] = 1.0
            for o in layer(one.view(1, *shape)).flatten().nonzero().flatten().tolist():
                yield (level, i), (level + 1, o), None


def convolution_edges(name: str, conv: nn.Conv2d, shape: tuple[int, ...], level: int) -> Iterator[Edge]:
    (_, height, width), out = shape, conv(torch.zeros(1, *shape)).shape[1:]
    (kernel_y, kernel_x), step, pad = conv.kernel_size, conv.stride[0], conv.padding[0]
    ranges = [range(n) for n in (*out, conv.in_channels, kernel_y, kernel_x)]
    for o, v, u, i, ky, kx in product(*ranges):
        y, x = v * step - pad + ky, u * step - pad + kx
        if 0 <= y < height and 0 <= x < width:
            tap = ((o * conv.in_channels + i) * kernel_y + ky) * kernel_x + kx
            source, target = (i * height + y) * width + x, (o * out[1] + v) * out[2] + u
            yield (level, source), (level + 1, target), (f"{name}.weight", tap)


def chain(network: nn.Sequential, shape: tuple[int, ...]) -> list[Edge]:
    edges: list[Edge] = []
    for level, (name, layer) in enumerate(network.named_children()):
        edges += edges_of(name, layer, shape, level)
        shape = tuple(layer(torch.zeros(1, *shape)).shape[1:])
    return edges


def spread(steps: list[tuple[Node, Node]], reached: set[Node]) -> set[Node]:
    while more := {end for start, end in steps if start in reached} - reached:
        reached = reached | more
    return reached


def enumerated(edges: Iterable[Edge], mask: Mask) -> set[Weight]:
    """The kept weights on an unbroken way from the first level to the last, by search forwards and backwards."""
    kept, edges = as_set(mask), list(edges)
    last = max(end[0] for _, end, _ in edges)
    alive = [edge for edge in edges if edge[2] is None or edge[2] in kept]
    forwards = spread([(a, b) for a, b, _ in alive], {a for a, _, _ in edges if a[0] == 0})
    backwards = spread([(b, a) for a, b, _ in alive], {b for _, b, _ in edges if b[0] == last})
    return {weight for a, b, weight in alive if weight is not None and a in forwards and b in backwards}


def as_set(mask: Mask) -> set[Weight]:
    return {(name, i) for name, keep in mask.items() for i in keep.flatten().nonzero().flatten().tolist()}


def random_mask(network: nn.Module, density: float, seed: int) -> Mask:
    random = torch.Generator().manual_seed(seed)
    weights = prunable_weights(network)
    return Mask({name: torch.rand(w.shape, generator=random) < density for name, w in weights.items()})


def emptied(mask: Mask, *names: str) -> Mask:
    return Mask({name: torch.zeros_like(keep) if name in names else keep for name, keep in mask.items()})


def test_every_path_of_a_hand_made_mlp_is_found() -> None:
    """Unit by unit: inputs 0 1 2, hidden a b, hidden c d, output."""
    network = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    mask = Mask(
        {
            "0.weight": torch.tensor([[True, True, False], [False, False, True]]),  # 0 and 1 to a, 2 to b
            "2.weight": torch.tensor([[True, False], [False, True]]),  # a to c, b to d
            "4.weight": torch.tensor([[True, False]]),  # c to the output; d leads nowhere
        }
    )
    effective = effective_mask(network, mask, (3,))
    assert effective["0.weight"].tolist() == [[True, True, False], [False, False, False]]
    assert effective["2.weight"].tolist() == [[True, False], [False, False]]
    assert effective["4.weight"].tolist() == [[True, False]]
    metrics = mask_metrics(network, mask, (3,))
    assert (metrics["kept"], metrics["total"], metrics["density"]) == (6, 12, 0.5)
    assert metrics["effective_density"] == 4 / 12


def test_an_mlp_agrees_with_the_enumeration_of_every_single_path() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    for seed in range(20):
        mask = random_mask(network, 0.35, seed)
        first, second, third = mask["0.weight"], mask["2.weight"], mask["4.weight"]
        paths = set()
        for i, a, b, o in product(range(4), range(3), range(3), range(2)):
            if first[a, i] and second[b, a] and third[o, b]:
                paths |= {("0.weight", a * 4 + i), ("2.weight", b * 3 + a), ("4.weight", o * 3 + b)}
        assert as_set(effective_mask(network, mask, (4,))) == paths


TINY = nn.Sequential(
    nn.Conv2d(1, 2, 3, stride=2, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2, stride=1),
    nn.Conv2d(2, 2, 2, padding=1, bias=False),
    nn.ReLU(inplace=True),
    nn.Flatten(),
    nn.Linear(18, 2),
)
TINY_EDGES = chain(copy.deepcopy(TINY), (1, 6, 6))


@given(st.floats(0.02, 1.0), st.integers(0, 10**6))
@settings(deadline=None, max_examples=60)
def test_a_conv_net_agrees_with_the_search_over_positions(density: float, seed: int) -> None:
    mask = random_mask(TINY, density, seed)
    assert as_set(effective_mask(TINY, mask, (1, 6, 6))) == enumerated(TINY_EDGES, mask)


class Pool(nn.Module):
    def __init__(self, function: str) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        calls = {
            "functional": lambda: F.max_pool2d(x, 3, 2, padding=1),
            "torch": lambda: torch.max_pool2d(x, (2, 1)),
            "adaptive": lambda: F.adaptive_max_pool2d(x, (2, 3)),
            "amax of uneven values": lambda: F.avg_pool2d(x, 2, padding=1).amax((2, 3)),
        }
        return calls[self.function]()


POOLS = {
    "overlapping, padded, rounded up": nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
    "dilated": nn.MaxPool2d(2, stride=1, dilation=2),
    "not square": nn.MaxPool2d((1, 3), stride=(2, 1)),
    "adaptive module": nn.AdaptiveMaxPool2d(3),
    "average": nn.AvgPool2d(2),
    **{function: Pool(function) for function in ("functional", "torch", "adaptive", "amax of uneven values")},
}


@pytest.mark.parametrize("pool", POOLS)
def test_a_pool_connects_every_position_of_its_windows(pool: str) -> None:
    """Max pooling's own gradient goes to one winner, and would call the other positions dead."""
    features = POOLS[pool](torch.zeros(1, 1, 5, 6)).numel()
    network = nn.Sequential(
        *(nn.Linear(2, 30), nn.Unflatten(1, (1, 5, 6)), POOLS[pool]), *(nn.Flatten(), nn.Linear(features, 1))
    )
    edges = chain(network, (2,))
    for seed in range(10):
        mask = random_mask(network, 0.3, seed)
        assert as_set(effective_mask(network, mask, (2,))) == enumerated(edges, mask)


def test_taps_that_only_ever_meet_padding_are_not_effective() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Flatten(), nn.Linear(1, 1))
    effective = effective_mask(network, Mask.full(network), (1, 1, 1))
    assert effective["0.weight"].flatten().tolist() == [False] * 4 + [True] + [False] * 4


class Residual(nn.Module):
    def __init__(self, blocks: int = 2, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.branches = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(blocks))
        self.norm = nn.BatchNorm2d(4)
        self.activation = activation()
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        for branch in self.branches:
            x = self.activation(x + branch(x))
        return self.head(x.amax((2, 3)))


def test_an_emptied_residual_branch_is_harmless() -> None:
    network = Residual()
    mask = emptied(Mask.full(network), "branches.0.weight")
    assert effective_mask(network, mask, (3, 6, 6)) == mask
    metrics = mask_metrics(network, mask, (3, 6, 6))
    assert metrics["collapsed"] is False
    assert metrics["empty_layers"] == 1
    assert metrics["effective_density"] == metrics["density"]


def test_biases_and_normalisation_are_no_source_of_signal() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    nn.init.ones_(network[0].bias)
    nn.init.ones_(network[1].bias)
    nn.init.zeros_(network[1].weight)
    mask = emptied(Mask.full(network), "0.weight")
    assert effective_mask(network, mask, (1, 2, 2)).kept == 0
    assert effective_mask(network, Mask.full(network), (1, 2, 2)) == Mask.full(network)


@pytest.mark.parametrize("activation", [nn.ReLU6, nn.Hardtanh, nn.Tanh, nn.GELU, nn.Hardswish])
def test_an_activation_that_saturates_cuts_no_path(activation: type[nn.Module]) -> None:
    network = Residual(blocks=40, activation=activation)
    assert effective_mask(network, Mask.full(network), (3, 4, 4)) == Mask.full(network)


@pytest.mark.parametrize("last", [nn.LogSoftmax(1), nn.Softmax(1), nn.Sigmoid(), nn.Dropout(1.0)])
def test_an_activation_on_the_outputs_cuts_no_path(last: nn.Module) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), last)
    head = torch.tensor([[False, True, True, True]] * 3)
    effective = effective_mask(network, Mask({**Mask.full(network), "2.weight": head}), (3,))
    assert effective["0.weight"].any(1).tolist() == [False, True, True, True]


def test_a_closed_gate_lets_the_gated_signal_through() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.gate, self.head = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            return self.head(x * torch.sigmoid(self.gate(x)))

    network = Gated()
    assert effective_mask(network, Mask.full(network), (3,)) == Mask.full(network)
    mask = emptied(Mask.full(network), "gate.weight")
    assert effective_mask(network, mask, (3,)) == mask


def test_a_faint_token_is_attended_to_as_well() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Linear(1, 16)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.tokens(x).view(-1, 2, 8)
            return self.attention(x, x, x, need_weights=False)[0][:, 0]

    network = Attending()
    tokens = torch.tensor([[True]] * 9 + [[False]] * 7)
    mask = Mask({**Mask.full(network), "tokens.weight": tokens})
    assert effective_mask(network, mask, (1,)) == mask


def test_a_weight_that_two_layers_share_is_effective_where_either_uses_it() -> None:
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    network[1].weight = network[0].weight
    # Input 0 to hidden 1, and hidden 1 to output 1; the weight (1, 1) carries the second step.
    mask = Mask({"0.weight": torch.tensor([[False, False], [True, True]])})
    assert effective_mask(network, mask, (2,)) == mask
    assert effective_mask(network, Mask({"0.weight": torch.tensor([[False, False], [True, False]])}), (2,)).kept == 0


def test_a_mask_in_another_layer_order_is_read_by_name() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4))
    mask = random_mask(network, 0.6, seed=3)
    turned = Mask({name: mask[name] for name in reversed(list(mask))})
    effective = effective_mask(network, turned, (3,))
    assert list(effective) == list(turned)
    assert as_set(effective) == as_set(effective_mask(network, mask, (3,)))
