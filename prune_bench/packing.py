"""Networks of one architecture side by side in one: many small ones cost little more than a few.

Every parameter of a packed network is the lanes' parameters one after the other along dimension 0, under the same
name. Activations hold the lanes' channels one after the other, [B, lanes x C, ...]: a convolution becomes a grouped
one, normalisation works as it is, a linear layer becomes a batched product. No number of a lane meets one of another.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from prune_bench.data.protocol import Batch, DataSet, Split

_TOLERANCE = 1e-10  # of float64 outputs; what floating-point order alone can do is far below


class PackedLinear(nn.Linear):
    """A linear layer a lane: [B, lanes x in] to [B, lanes x out].

    Args:
        layer: One lane's layer.
        lanes: How many.
    """

    def __init__(self, layer: nn.Linear, lanes: int) -> None:
        super().__init__(layer.in_features, lanes * layer.out_features, layer.bias is not None, device="meta")
        self.lanes, self.prunable = lanes, getattr(layer, "prunable", True)

    def forward(self, x: Tensor) -> Tensor:
        """One batched product for all lanes."""
        inputs = x.view(len(x), self.lanes, self.in_features).transpose(0, 1)
        weight = self.weight.view(self.lanes, -1, self.in_features).transpose(1, 2)
        outputs = inputs @ weight
        if self.bias is not None:
            outputs = outputs + self.bias.view(self.lanes, 1, -1)
        return outputs.transpose(0, 1).reshape(len(x), -1)


def pack(networks: Sequence[nn.Module]) -> nn.Module:
    """The networks side by side; a single one is itself.

    Args:
        networks: Lanes, equal in all but the values of their parameters and buffers.

    Returns:
        A network of its own parameters that takes [B, lanes x C, ...] and gives [B, lanes x classes].

    Raises:
        TypeError: A layer has parameters of which it is not known how they go side by side.
    """
    if len(networks) == 1:
        return networks[0]
    packed, lanes = copy.deepcopy(networks[0]), len(networks)
    for name, layer in list(packed.named_modules()):
        packed = _widen(packed, name, layer, lanes)
    _fill(packed, networks)
    return packed


def unpack_(packed: nn.Module, networks: Sequence[nn.Module]) -> None:
    """Copies every lane's parameters and buffers out of a packed network, in place."""
    if len(networks) == 1:
        networks[0].load_state_dict(packed.state_dict())
        return
    values = packed.state_dict()
    for lane, network in enumerate(networks):
        own = {n: v.chunk(len(networks))[lane] if v.dim() else v for n, v in values.items()}
        network.load_state_dict(own)


def can_pack(network: nn.Module, input_shape: Sequence[int]) -> bool:
    """Whether two copies side by side give, in float64, what each gives alone; False where any of it raises.

    Args:
        network: As it will be trained.
        input_shape: Of one sample, (C, H, W).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            together, alone = _two_ways(network, input_shape)
        except Exception:  # a network may assert, ask for an attribute, or raise whatever it likes
            return False
    return together.shape == alone.shape and torch.allclose(together, alone, rtol=_TOLERANCE, atol=_TOLERANCE)


def _two_ways(network: nn.Module, input_shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """What two copies give packed and alone, [2, 4, F] each."""
    lanes = [copy.deepcopy(network).double().train() for _ in range(2)]
    for parameter in lanes[1].parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    xs = [torch.randn(4, *input_shape, dtype=torch.float64) for _ in lanes]
    together = lane_outputs(pack(lanes)(torch.cat(xs, 1)), 2)
    # Run after the packed ones: a layer that draws at random then draws something else.
    return together, torch.stack([lane(x) for lane, x in zip(lanes, xs)])


def lane_outputs(outputs: Tensor, lanes: int) -> Tensor:
    """What each lane gives: [B, lanes x F] to [lanes, B, F]."""
    apart: Tensor = outputs.unflatten(1, (lanes, -1))
    return apart.transpose(0, 1)


class PackedData:
    """The lanes' data sets as one, whose batches are images [B, lanes x C, ...] and labels [lanes, B].

    Args:
        lanes: Data sets equal in size and shapes; one that several lanes share is gone through once for all.

    Attributes:
        streams: For each lane, which of the distinct data sets its batches come from.
        draws_apart: True if no lane's data draw from global generators.
    """

    def __init__(self, lanes: Sequence[DataSet]) -> None:
        self._distinct = list({id(data): data for data in lanes}.values())
        self.streams = tuple(next(i for i, own in enumerate(self._distinct) if own is data) for data in lanes)
        self.draws_apart = all(getattr(data, "draws_apart", False) for data in self._distinct)
        first = lanes[0]
        self.num_classes, self.input_shape, self.samples = first.num_classes, first.input_shape, first.samples

    def steps_per_epoch(self, batch_size: int) -> int:
        """As many as each lane's."""
        return self._distinct[0].steps_per_epoch(batch_size)

    def epoch(self, epoch: int, batch_size: int, *, augment: bool) -> Iterator[Batch]:
        """The batches of one epoch of every lane, each in its own order."""
        return self._together(lambda data: data.epoch(epoch, batch_size, augment=augment))

    def balanced(self, per_class: int) -> Batch:
        """Each lane's balanced batch."""
        return next(self._together(lambda data: iter([data.balanced(per_class)])))

    def evaluation(self, split: Split, batch_size: int) -> Iterator[Batch]:
        """The fixed batches of each lane's split."""
        return self._together(lambda data: data.evaluation(split, batch_size))

    def _together(self, batches: Callable[[DataSet], Iterator[Batch]]) -> Iterator[Batch]:
        for found in zip(*(batches(data) for data in self._distinct)):
            chosen = [found[stream] for stream in self.streams]
            yield torch.cat([x for x, _ in chosen], 1), torch.stack([y for _, y in chosen])


def pack_data(lanes: Sequence[DataSet]) -> DataSet | PackedData:
    """The lanes' data sets side by side; a single one is itself."""
    return lanes[0] if len(lanes) == 1 else PackedData(lanes)


def _widen(packed: nn.Module, name: str, layer: nn.Module, lanes: int) -> nn.Module:
    """Tells one layer of the packed network that it now has ``lanes`` times the channels."""
    if type(layer) is nn.Linear:
        wide = PackedLinear(layer, lanes)
        if not name:
            return wide
        packed.set_submodule(name, wide)
    elif isinstance(layer, _ConvNd):
        layer.in_channels, layer.out_channels = layer.in_channels * lanes, layer.out_channels * lanes
        layer.groups *= lanes
    elif isinstance(layer, _NormBase):
        layer.num_features *= lanes
    elif isinstance(layer, nn.GroupNorm):
        layer.num_groups, layer.num_channels = layer.num_groups * lanes, layer.num_channels * lanes
    elif any(True for _ in layer.parameters(recurse=False)) or any(True for _ in layer.buffers(recurse=False)):
        raise TypeError(f"{type(layer).__name__} ({name}) is not a layer that can be packed")
    return packed


def _fill(packed: nn.Module, networks: Sequence[nn.Module]) -> None:
    """Gives the packed network the lanes' values; what layers of a lane share, its packed layers share too."""
    made: dict[int, nn.Parameter] = {}
    for name, module in networks[0].named_modules():
        theirs = [network.get_submodule(name) for network in networks]
        ours = packed.get_submodule(name)
        for key, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in made:
                values = torch.cat([lane.get_parameter(key).detach() for lane in theirs])
                made[id(parameter)] = nn.Parameter(values, requires_grad=parameter.requires_grad)
            setattr(ours, key, made[id(parameter)])
        for key, buffer in module.named_buffers(recurse=False):
            whole = torch.cat([lane.get_buffer(key) for lane in theirs]) if buffer.dim() else buffer.clone()
            setattr(ours, key, whole)
