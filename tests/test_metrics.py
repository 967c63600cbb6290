from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prune_bench.mask import Mask, prunable_weights
from prune_bench.metrics import Flops, effective_mask, flops, mask_metrics
from prune_bench.models.resnet import ResNet, ResNetOptions
from prune_bench.models.vgg import VGGOptions, vgg
from prune_bench.vocabulary import METRICS


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.branch = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        return self.head(F.dropout(x + self.branch(x)).mean((2, 3)))


def random_mask(network: nn.Module, density: float, seed: int) -> Mask:
    random = torch.Generator().manual_seed(seed)
    weights = prunable_weights(network)
    return Mask({name: torch.rand(w.shape, generator=random) < density for name, w in weights.items()})


def emptied(mask: Mask, *names: str) -> Mask:
    return Mask({name: torch.zeros_like(keep) if name in names else keep for name, keep in mask.items()})


@pytest.mark.parametrize("layers", [["stem.weight"], ["head.weight"], list(Mask.full(Residual()))])
def test_without_stem_or_head_the_network_has_collapsed(layers: list[str]) -> None:
    network = Residual()
    metrics = mask_metrics(network, emptied(Mask.full(network), *layers), (3, 6, 6))
    assert metrics["collapsed"] is True
    assert metrics["effective_density"] == 0.0
    assert metrics["empty_layers"] == len(layers)
    assert not any(math.isnan(value) for value in metrics.values())


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (ResNet(9, ResNetOptions(), in_channels=3, num_classes=10), (3, 32, 32)),
        (vgg(19, VGGOptions(), in_channels=3, num_classes=10), (3, 32, 32)),
        (nn.Sequential(*[nn.Linear(64, 64) for _ in range(300)]), (64,)),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (5, 8)),
    ],
    ids=["resnet56", "vgg19", "300 linear layers", "attention"],
)
def test_no_depth_or_width_overflows_or_vanishes(network: nn.Module, shape: tuple[int, ...]) -> None:
    full = Mask.full(network)
    assert effective_mask(network, full, shape) == full


def test_one_thin_path_through_a_deep_network_is_found() -> None:
    network = nn.Sequential(*[nn.Sequential(nn.Linear(50, 50), nn.ReLU()) for _ in range(100)])
    layers = {name: torch.zeros(50, 50, dtype=torch.bool) for name in Mask.full(network)}
    for keep in layers.values():
        keep[7, 7] = True
    mask = Mask(layers)
    assert effective_mask(network, mask, (50,)) == mask
    layers["60.0.weight"][7, 7] = False
    assert effective_mask(network, Mask(layers), (50,)).kept == 0


def test_nothing_of_the_network_or_the_process_changes() -> None:
    network = Residual().train()
    network.norm.eval()
    network.stem.weight.requires_grad_(False)
    network(torch.randn(2, 3, 6, 6)).sum().backward()
    state = copy.deepcopy(network.state_dict())
    grads = {name: copy.deepcopy(p.grad) for name, p in network.named_parameters()}
    modes = [module.training for module in network.modules()]
    random = torch.get_rng_state()
    mask = random_mask(network, 0.5, seed=0)
    before = copy.deepcopy(mask)
    mask_metrics(network, mask, (3, 6, 6))
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad is (name != "stem.weight")
        assert (parameter.grad is None) == (grads[name] is None)
        assert parameter.grad is None or torch.equal(parameter.grad, grads[name])
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert mask == before
    assert not any(module._forward_hooks or "forward" in vars(module) for module in network.modules())


def test_the_callers_modes_and_the_networks_precision_do_not_matter() -> None:
    network = Residual()
    mask = random_mask(network, 0.4, seed=1)
    plain = mask_metrics(network, mask, (3, 6, 6))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert mask_metrics(network, mask, (3, 6, 6)) == plain
    with torch.no_grad():
        assert mask_metrics(network.double(), mask, (3, 6, 6)) == plain


def test_a_mask_of_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match="another network"):
        mask_metrics(nn.Linear(3, 2), Mask.full(nn.Linear(2, 3)), (3,))


def test_operations_are_those_counted_by_hand() -> None:
    convolution = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    network = nn.Sequential(convolution, nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10))
    dense = 2 * (8 * 3 * 3 * 3) * 4 * 4 + 2 * 128 * 10
    assert flops(network, Mask.full(network), (3, 8, 8)) == Flops(dense=dense, sparse=dense)
    layers = {name: torch.zeros_like(keep) for name, keep in Mask.full(network).items()}
    layers["0.weight"].view(-1)[:7] = True
    layers["4.weight"].view(-1)[:100] = True
    assert flops(network, Mask(layers), (3, 8, 8)) == Flops(dense=dense, sparse=2 * 7 * 4 * 4 + 2 * 100)


def test_layers_that_share_a_weight_run_twice_or_hide_in_a_list_are_each_counted() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)])
            self.layers[1].weight = self.layers[0].weight

        def forward(self, x: Tensor) -> Tensor:
            first, shared, last = self.layers
            return last(last(shared(first(x)))) @ torch.ones(4, 2)

    layers = {"layers.0.weight": torch.eye(4, dtype=torch.bool), "layers.2.weight": torch.ones(4, 4) > 0}
    product_of_no_layer = 2 * 4 * 2
    expected = Flops(dense=4 * 32 + product_of_no_layer, sparse=2 * 8 + 2 * 32 + product_of_no_layer)
    assert flops(Network(), Mask(layers), (4,)) == expected


def test_batch_statistics_on_1x1_maps_are_no_obstacle() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten())
    metrics = mask_metrics(network, Mask.full(network), (1, 3, 3))
    assert metrics["flops/dense"] == 2 * 18
    assert metrics["effective_density"] == 1.0


def test_every_metric_of_a_mask_is_in_the_vocabulary() -> None:
    assert set(mask_metrics(nn.Linear(3, 2), Mask.full(nn.Linear(3, 2)), (3,))) <= set(METRICS)
    assert all(METRICS.values())


def test_the_network_runs_once_for_all_metrics_of_a_ticket(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    real = Residual.forward
    monkeypatch.setattr(Residual, "forward", lambda self, x: runs.append(len(x)) or real(self, x))
    network = Residual()
    mask_metrics(network, Mask.full(network), (3, 8, 8))
    assert len(runs) == 1
