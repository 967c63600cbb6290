"""Arithmetic in float64, where only rounding may tell ways of computing apart: packed and alone, GPU and CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from prune_bench.config import Recipe
from prune_bench.doctor.lines import Line, Subject
from prune_bench.mask import Mask
from prune_bench.models import build_model
from prune_bench.packing import pack, unpack_
from prune_bench.randomness import generator
from prune_bench.training.descent import Descent

_TOLERANCE = 1e-9
_STEPS, _BATCH, _LANES = 6, 16, 2
_RECIPE = Recipe(batch_size=_BATCH, lr=0.01)


def look(subject: Subject) -> Iterator[Line]:
    """Packed against alone on the device, then the device against the CPU."""
    device, cpu = torch.device(subject.device), torch.device("cpu")
    alone = [trained([lane], device) for lane in range(_LANES)]
    together = trained(range(_LANES), device)
    yield _line("packed", apart([net for nets in alone for net in nets], together), f"{_LANES} lanes against alone")
    if device != cpu:
        yield _line("GPU and CPU", apart(together, trained(range(_LANES), cpu)), f"{device} against the CPU")


def trained(lanes: Sequence[int], device: torch.device) -> list[nn.Module]:
    """Networks after some steps side by side, each from its own weights and on its own images."""
    networks = [_network(lane) for lane in lanes]
    descent = Descent(
        pack([_network(lane).to(device) for lane in lanes]),
        Mask.side_by_side([Mask.full(network) for network in networks]),
        _RECIPE,
        lanes=len(networks),
    )
    for step in range(_STEPS):
        images, labels = zip(*(_batch(lane, step) for lane in lanes))
        descent.step(torch.cat(images, 1).to(device), torch.stack(labels).to(device))
    networks = [network.to(device) for network in networks]
    unpack_(descent.network, networks)
    return networks


def apart(ones: Sequence[nn.Module], others: Sequence[nn.Module]) -> float:
    """The largest difference between networks' weights, over the largest weight."""
    pairs = [
        (a.detach().cpu(), b.detach().cpu())
        for one, other in zip(ones, others)
        for a, b in zip(one.parameters(), other.parameters())
    ]
    return max(float((a - b).abs().max()) for a, b in pairs) / max(float(a.abs().max()) for a, _ in pairs)


def _line(name: str, found: float, what: str) -> Line:
    values = {f"{name} in float64": found}
    if found <= _TOLERANCE:
        words = f"{what} in float64: {found:.1g} apart after {_STEPS} steps"
        return Line(name=name, verdict="pass", words=words, values=values)
    words = (
        f"{what} in float64: {found:.1g} apart after {_STEPS} steps, more than {_TOLERANCE:g}: do not trust results"
    )
    return Line(name=name, verdict="mend", words=words, values=values)


def _network(lane: int) -> nn.Module:
    network = build_model(
        "resnet8", {"width": 4}, in_channels=3, image_size=8, num_classes=4, generator=generator(lane, "doctor")
    )
    return network.double()


def _batch(lane: int, step: int) -> tuple[Tensor, Tensor]:
    own = generator(lane, "doctor", step)
    return torch.randn(_BATCH, 3, 8, 8, dtype=torch.float64, generator=own), torch.arange(_BATCH) % 4
