from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prune_bench.mask import Mask, prunable_weights
from prune_bench.metrics import NotKnownError, effective_mask, mask_metrics
from tests.architectures import ARCHITECTURES, ORDERS, Written, conv, linear, vit
from tests.differences import by_differences

FULL = ("where, constant condition", "indexing", "indexing by names", "in-place masks", "a buffer that scales")
"""Networks that do not use all of their weights, even unpruned."""


def made(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    build, shape = ARCHITECTURES[name]
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return build(), shape


def random_mask(network: nn.Module, density: float, seed: int) -> Mask:
    random = torch.Generator().manual_seed(seed)
    weights = prunable_weights(network)
    return Mask({name: torch.rand(w.shape, generator=random) < density for name, w in weights.items()})


def without(network: nn.Module, name: str) -> Mask:
    return Mask({n: torch.zeros_like(keep) if n == name else keep for n, keep in Mask.full(network).items()})


def part_of(some: Mask, more: Mask) -> bool:
    return all(bool((some[name] <= more[name]).all()) for name in more)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in FULL])
def test_every_weight_of_an_unpruned_network_is_effective(name: str) -> None:
    network, shape = made(name)
    metrics = mask_metrics(network, Mask.full(network), shape)
    assert (metrics["effective_density"], metrics["collapsed"]) == (1.0, False)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in ORDERS])
def test_a_weight_is_effective_where_changing_it_changes_an_output(name: str) -> None:
    network, shape = made(name)
    mask = random_mask(network, 0.45, seed=1)
    assert effective_mask(network, mask, shape) == by_differences(network, mask, shape, draws=3, samples=32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_same_at_several_densities(name: str) -> None:
    network, shape = made(name)
    for density, seed in ((1.0, 0), (0.7, 0), (0.7, 1), (0.45, 0), (0.45, 2), (0.25, 0), (0.25, 1), (0.25, 2)):
        mask = random_mask(network, density, seed)
        effective, tried = effective_mask(network, mask, shape), by_differences(network, mask, shape, draws=6)
        assert part_of(tried, effective) if name in ORDERS else tried == effective


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_with_an_empty_last_layer_a_network_has_collapsed(name: str) -> None:
    network, shape = made(name)
    if name in ("cat", "two outputs", "weights times weights", "multi-head attention, other keys", "tied weights"):
        pytest.skip("there is a way round the last layer")
    last = list(prunable_weights(network))[-1]
    if name.startswith("transformer"):
        pytest.skip("a residual goes round its last layer")
    assert mask_metrics(network, without(network, last), shape)["collapsed"] is True


def test_positions_and_the_class_token_of_a_vision_transformer_are_no_input() -> None:
    network = vit()
    metrics = mask_metrics(network, without(network, "patches.weight"), (1, 4, 4))
    assert (metrics["effective_density"], metrics["collapsed"]) == (0.0, True)


def test_statistics_of_a_batch_make_no_path_of_a_constant() -> None:
    def forward(n: nn.Module, x: Tensor) -> Tensor:
        return n.last(n.norm(n.first(x) + n.positions).flatten(1))

    network = Written(
        forward, first=conv(1, 2), norm=nn.BatchNorm2d(2, track_running_stats=False), last=linear(18, 2),
        positions=nn.Parameter(torch.randn(1, 2, 3, 3)),
    )  # fmt: skip
    assert mask_metrics(network, without(network, "first.weight"), (1, 3, 3))["collapsed"] is True


class Deciding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = linear(3, 3), linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if x.sum() > 0 else self.b(x)


@pytest.mark.parametrize(
    ("forward", "why"),
    [
        (lambda n, x: n.last(n.first(x) * n.first(x).mean().item()), "depend on the data"),
        (lambda n, x: n.last(n.first(x)[n.first(x) > 0][:1].repeat(4)), "depend on the data"),
        (lambda n, x: n.last(torch.from_numpy(n.first(x).numpy())), "numpy"),
        (lambda n, x: n.last(torch.tensor(n.first(x).tolist())), "no path that was found"),
        (lambda n, x: n.last(torch.linalg.inv(n.first(x).view(-1, 2, 2)).flatten(1)), "no rule"),
        (lambda n, x: n.last(n.first(x)[:, :2]), "raises RuntimeError"),
    ],
    ids=["item", "boolean index", "numpy", "list", "operator", "raises"],
)
def test_what_cannot_be_known_is_not_a_number_and_one_warning_says_why(forward: object, why: str) -> None:
    network = Written(forward, first=linear(3, 4), last=linear(4, 2))
    with pytest.warns(UserWarning, match="not known") as warned:
        metrics = mask_metrics(network, random_mask(network, 0.5, seed=0), (3,))
    assert (metrics["effective_density"], metrics["collapsed"]) == (None, None)
    assert why in str(warned[0].message)
    assert len(warned) == 1
    assert metrics["kept"] == random_mask(network, 0.5, seed=0).kept
    with pytest.raises(NotKnownError, match=why):
        effective_mask(network, Mask.full(network), (3,))


def test_a_decision_by_the_data_is_not_known() -> None:
    with pytest.warns(UserWarning, match="depend on the data"):
        assert mask_metrics(Deciding(), Mask.full(Deciding()), (3,))["effective_density"] is None


def test_layers_that_are_not_run_are_not_effective_and_are_known() -> None:
    network = Written(lambda n, x: n.first(x), first=linear(3, 2), auxiliary=linear(3, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mask_metrics(network, Mask.full(network), (3,))["effective_density"] == 6 / 18


def test_two_calls_give_the_same_and_draw_nothing() -> None:
    def forward(n: nn.Module, x: Tensor) -> Tensor:
        return n.last(F.dropout(n.first(x)) + 0.1 * torch.randn(len(x), 4))

    network = Written(forward, first=linear(3, 4), last=linear(4, 2))
    mask, before = random_mask(network, 0.5, seed=0), torch.get_rng_state()
    assert effective_mask(network, mask, (3,)) == effective_mask(network, mask, (3,))
    assert effective_mask(network, Mask.full(network), (3,)) == Mask.full(network)
    assert torch.equal(torch.get_rng_state(), before)


def test_sequences_of_many_steps_and_squares_neither_overflow_nor_vanish() -> None:
    def forward(n: nn.Module, x: Tensor) -> Tensor:
        x = n.first(x)
        for _ in range(300):
            x = x * x + x
        return n.last(x.view(len(x), 2, 2).mean(-1))

    network = Written(forward, first=linear(3, 4), last=linear(2, 2))
    assert effective_mask(network, Mask.full(network), (3,)) == Mask.full(network)


@pytest.mark.parametrize("squeeze", [True, False])
def test_a_network_that_squeezes_its_batch_away_is_run_on_two_samples(squeeze: bool) -> None:
    def forward(n: nn.Module, x: Tensor) -> Tensor:
        maps = n.first(x).mean((2, 3), keepdim=True)
        maps = maps.squeeze() if squeeze else maps.flatten(1)
        return n.last(maps[:, :3])

    network = Written(forward, first=conv(1, 3), last=linear(3, 2))
    metrics = mask_metrics(network, Mask.full(network), (1, 4, 4))
    assert metrics["effective_density"] == 1.0
    assert metrics["flops/dense"] == 2 * (27 * 16 + 6)


def test_a_scripted_function_is_read_as_well() -> None:
    @torch.jit.script
    def gate(x: Tensor, y: Tensor) -> Tensor:
        return torch.sigmoid(x) * y

    network = Written(lambda n, x: n.last(gate(n.a(x), n.b(x))), a=linear(3, 4), b=linear(3, 4), last=linear(4, 2))
    mask = random_mask(network, 0.45, seed=2)
    assert effective_mask(network, mask, (3,)) == by_differences(network, mask, (3,))
