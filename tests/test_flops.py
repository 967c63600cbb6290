from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prune_bench.mask import Mask
from prune_bench.metrics import Flops, flops
from tests.architectures import Written, conv, linear

TOKENS, WIDTH, HEADS = 10, 8, 2
PRODUCTS = 2 * (2 * TOKENS * TOKENS * WIDTH)
"""Of queries with keys and of attention with values: a multiply-add is two."""


def attend(n: Any, x: Tensor) -> Tensor:
    q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (n.q(x), n.k(x), n.v(x)))
    return n.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def attend_by_hand(n: Any, x: Tensor) -> Tensor:
    q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (n.q(x), n.k(x), n.v(x)))
    return n.o(((q @ k.transpose(-1, -2) / 2).softmax(-1) @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("forward", [attend, attend_by_hand])
def test_attention_is_its_layers_and_its_two_products(forward: Any) -> None:
    network = Written(forward, **{name: linear(WIDTH, WIDTH) for name in "qkvo"})
    dense = 4 * 2 * TOKENS * WIDTH * WIDTH + PRODUCTS
    assert flops(network, Mask.full(network), (TOKENS, WIDTH)) == Flops(dense=dense, sparse=dense)
    mask = Mask({**Mask.full(network), "q.weight": torch.eye(WIDTH).bool()})
    saved = 2 * TOKENS * (WIDTH * WIDTH - WIDTH)
    assert flops(network, mask, (TOKENS, WIDTH)) == Flops(dense=dense, sparse=dense - saved)


@pytest.mark.parametrize("modes", ["inference", "no_grad", "grad"])
@pytest.mark.parametrize("need_weights", [True, False])
def test_a_mask_on_the_output_projection_of_attention_saves_its_part(need_weights: bool, modes: str) -> None:
    network = Written(
        lambda n, x: n.mha(x, x, x, need_weights=need_weights)[0],
        mha=nn.MultiheadAttention(WIDTH, HEADS, batch_first=True),
    )
    quarter = torch.zeros(WIDTH, WIDTH, dtype=torch.bool)
    quarter[: WIDTH // 4] = True
    projections, out = 3 * 2 * TOKENS * WIDTH * WIDTH, 2 * TOKENS * WIDTH * WIDTH
    with {"inference": torch.inference_mode(), "no_grad": torch.no_grad(), "grad": torch.enable_grad()}[modes]:
        found = flops(network, Mask({"mha.out_proj.weight": quarter}), (TOKENS, WIDTH))
    assert found == Flops(dense=projections + PRODUCTS + out, sparse=projections + PRODUCTS + out // 4)


def test_a_transformer_layer_is_its_parts() -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True)
    attention, between = 4 * 2 * TOKENS * WIDTH * WIDTH + PRODUCTS, 2 * 2 * TOKENS * WIDTH * 16
    mask = Mask({name: torch.zeros_like(keep) for name, keep in Mask.full(layer).items()})
    sparse = 3 * 2 * TOKENS * WIDTH * WIDTH + PRODUCTS
    assert flops(layer, mask, (TOKENS, WIDTH)) == Flops(dense=attention + between, sparse=sparse)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_a_recurrent_layer_is_the_products_of_its_cells(kind: type[nn.RNNBase], gates: int) -> None:
    network = Written(
        lambda n, x: n.head(n.cells(x)[0][:, -1]), cells=kind(WIDTH, 5, batch_first=True), head=linear(5, 2)
    )
    cells = 2 * TOKENS * gates * 5 * (WIDTH + 5)
    mask = Mask({"head.weight": torch.tensor([[True] + [False] * 4] * 2)})
    assert flops(network, mask, (TOKENS, WIDTH)) == Flops(dense=cells + 20, sparse=cells + 4)


def test_a_weight_that_is_used_without_its_layer_saves_what_it_should() -> None:
    network = Written(lambda n, x: F.linear(n.first(x), n.first.weight.t()), first=linear(6, 4))
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[0] = True
    assert flops(network, Mask({"first.weight": mask}), (6,)) == Flops(dense=2 * 2 * 24, sparse=2 * 2 * 6)


def test_grouped_and_transposed_convolutions_count_their_own_taps() -> None:
    network = nn.Sequential(conv(4, 6, groups=2, stride=2), nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2))
    dense = 2 * (6 * 2 * 9) * 16 + 2 * (6 * 2 * 4) * 16
    assert flops(network, Mask.full(network), (4, 8, 8)).dense == dense
    half = {name: torch.arange(keep.numel()).view(keep.shape) % 2 == 0 for name, keep in Mask.full(network).items()}
    assert flops(network, Mask(half), (4, 8, 8)) == Flops(dense=dense, sparse=dense // 2)
