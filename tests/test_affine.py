from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from prune_bench.affine import act_as_affine_


def channels(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """y[n, c, ...] = x[n, c, ...] * weight[c] + bias[c], one channel at a time."""
    y = x.clone()
    for c in range(x.shape[1]):
        y[:, c] = x[:, c] * weight[c] + (0 if bias is None else bias[c])
    return y


def trailing(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The formula on every sample whose dimensions the parameters have."""
    samples = [s * weight + (0 if bias is None else bias) for s in x.reshape(-1, *weight.shape)]
    return torch.stack(samples).reshape(x.shape)


CASES: dict[str, tuple[nn.Module, tuple[int, ...], Callable[..., Tensor]]] = {
    "batch norm on features": (nn.BatchNorm1d(3), (5, 3), channels),
    "batch norm on series": (nn.BatchNorm1d(3), (5, 3, 4), channels),
    "batch norm on images": (nn.BatchNorm2d(3), (5, 3, 4, 6), channels),
    "batch norm on volumes": (nn.BatchNorm3d(3), (2, 3, 2, 4, 5), channels),
    "batch norm without running statistics": (nn.BatchNorm2d(3, track_running_stats=False), (5, 3, 4, 4), channels),
    "synchronised batch norm": (nn.SyncBatchNorm(3), (5, 3, 4, 4), channels),
    "instance norm": (nn.InstanceNorm2d(3, affine=True), (5, 3, 3, 3), channels),
    "group norm": (nn.GroupNorm(2, 4), (5, 4, 4, 4), channels),
    "layer norm, one dimension": (nn.LayerNorm(4), (5, 4, 4), trailing),
    "layer norm, two dimensions": (nn.LayerNorm((3, 4)), (5, 3, 4), trailing),
    "layer norm without bias": (nn.LayerNorm(4, bias=False), (5, 4, 4), trailing),
    "rms norm": (nn.RMSNorm(4), (5, 4, 4), trailing),
}


@pytest.mark.parametrize("case", CASES)
def test_a_normalisation_layer_acts_as_its_affine_part_only(case: str) -> None:
    layer, shape, formula = copy.deepcopy(CASES[case])
    random = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=random)
    x = 3 + 5 * torch.randn(shape, generator=random)
    expected = formula(x, layer.weight.detach(), getattr(layer, "bias", None))
    assert act_as_affine_(layer) is layer
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(3, affine=False),
        nn.InstanceNorm2d(3),
        nn.GroupNorm(3, 3, affine=False),
        nn.LayerNorm(3, elementwise_affine=False),
        nn.RMSNorm(3, elementwise_affine=False),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_without_an_affine_part_it_is_the_identity(layer: nn.Module) -> None:
    x = torch.arange(54.0).view(2, 3, 3, 3)
    assert torch.equal(act_as_affine_(layer)(x), x)


def test_one_sample_on_a_1x1_map_works_and_no_statistics_move() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm2d(2, track_running_stats=False)
    ).train()
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    act_as_affine_(network)
    assert torch.equal(network(torch.ones(1, 1, 1, 1)), network[0](torch.ones(1, 1, 1, 1)))
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in network.named_buffers())


def test_the_current_weights_count_and_gradients_flow_to_them() -> None:
    layer = act_as_affine_(nn.BatchNorm2d(2))
    with torch.no_grad():
        layer.weight.fill_(-3.0)
    layer(torch.full((1, 2, 2, 2), 2.0)).sum().backward()
    assert layer.weight.grad.tolist() == [8.0, 8.0]
    assert layer.bias.grad.tolist() == [4.0, 4.0]


def test_a_deepcopy_is_affine_by_its_own_weights() -> None:
    layer = act_as_affine_(nn.BatchNorm2d(1))
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.weight.fill_(7.0)
    assert layer(torch.ones(1, 1, 1, 1)).item() == 1.0
    assert twin(torch.ones(1, 1, 1, 1)).item() == 7.0


def test_a_subclass_keeps_what_it_does_besides_normalising() -> None:
    class ChannelsFirst(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).relu()

    layer = ChannelsFirst(3)
    layer.weight.data = torch.tensor([1.0, 2.0, -3.0])
    x = torch.ones(1, 3, 3, 3)
    assert act_as_affine_(layer)(x)[0, :, 0, 0].tolist() == [1.0, 2.0, 0.0]


def test_other_layers_compute_what_they_did() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    x = torch.ones(2, 3)
    before = network(x)
    assert torch.equal(act_as_affine_(network)(x), before)
    assert network.training
