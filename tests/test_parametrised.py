from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import prune_bench as pb
from prune_bench.mask import Mask, prunable_modules, prunable_weights
from prune_bench.metrics import mask_metrics


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class OwnWeight(nn.Linear):
    """A layer that computes its weight by itself."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.scale = nn.Parameter(torch.ones(4, 1))
        del self.weight
        self.direction = nn.Parameter(torch.ones(4, 4))

    @property
    def weight(self) -> Tensor:
        return self.scale * self.direction


def old_style(change: Callable[[nn.Module], object]) -> Callable[[nn.Module], object]:
    def quietly(layer: nn.Module) -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return change(layer)

    return quietly


CHANGES: dict[str, tuple[Callable[[nn.Module], object], str, str]] = {
    "weight norm": (parametrizations.weight_norm, "WeightNorm", "remove_parametrizations"),
    "spectral norm": (parametrizations.spectral_norm, "SpectralNorm", "remove_parametrizations"),
    "orthogonal": (parametrizations.orthogonal, "Orthogonal", "remove_parametrizations"),
    "one of one's own": (
        lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
        "Doubled", "remove_parametrizations",
    ),
    "old weight norm": (old_style(nn.utils.weight_norm), "weight_norm", "remove_weight_norm"),
    "old spectral norm": (old_style(nn.utils.spectral_norm), "spectral_norm", "remove_spectral_norm"),
    "torch's pruning": (
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        "torch.nn.utils.prune", "from_torch_prune",
    ),
}  # fmt: skip


def changed(name: str) -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    for layer in (network[2], network[4]):
        CHANGES[name][0](layer)
    return network


@pytest.mark.parametrize("name", CHANGES)
def test_a_weight_that_is_computed_is_refused_with_layer_cause_and_mend(name: str) -> None:
    network, (_, cause, mend) = changed(name), CHANGES[name]
    data = [(torch.randn(8, 4), torch.arange(8) % 4)]
    plain = Mask.full(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)))
    uses: list[Callable[[], object]] = [
        lambda: pb.find_mask(network, "magnitude", density=0.5, data=data),
        lambda: pb.find_mask(network, "snip", density=0.5, data=data),
        lambda: Mask.full(network),
        lambda: plain.apply_(network),
        lambda: plain.to_torch_prune(network),
        lambda: mask_metrics(network, plain, (4,)),
    ]
    for use in uses:
        with pytest.raises(ValueError, match=r"layer 2 ") as raised:
            use()
        assert cause in str(raised.value)
        assert mend in str(raised.value)
        assert name == "torch's pruning" or "torch.nn.utils.prune" not in str(raised.value)


@pytest.mark.parametrize("name", CHANGES)
def test_no_layer_vanishes(name: str) -> None:
    network = changed(name)
    for _ in range(20):
        gc.collect(0)  # so that the addresses of temporaries are taken again
        assert list(prunable_modules(network)) == ["0.weight", "2.weight", "4.weight"]


def test_the_mend_that_is_named_mends() -> None:
    network = changed("weight norm")
    x = torch.randn(3, 4)
    before = network(x)
    for layer in (network[2], network[4]):
        parametrize.remove_parametrizations(layer, "weight")
    torch.testing.assert_close(network(x), before)
    assert len(Mask.full(network)) == 3


def test_a_layer_that_computes_its_own_weight_is_refused() -> None:
    network = nn.Sequential(nn.Linear(4, 4), OwnWeight())
    with pytest.raises(ValueError, match="layer 1 is no parameter, but is computed by OwnWeight itself"):
        prunable_weights(network)


def test_a_parametrised_bias_is_no_obstacle() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    parametrize.register_parametrization(network[0], "bias", Doubled())
    mask = pb.find_mask(network, "magnitude", density=0.5, data=[(torch.randn(4, 4), torch.arange(4) % 2)])
    assert mask.kept == 12
    assert mask_metrics(network, Mask.full(network), (4,))["effective_density"] == 1.0


def test_layers_that_share_a_pruned_weight_count_once() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    pruned = Mask({"0.weight": torch.eye(3).bool()}).to_torch_prune(copy.deepcopy(network))
    assert list(prunable_modules(pruned)) == ["0.weight"]
