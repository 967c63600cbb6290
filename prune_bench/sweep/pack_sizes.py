"""How many cells may go side by side: as many as the network and the machine gain from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from prune_bench.config import Experiment
from prune_bench.data.protocol import DataSet
from prune_bench.errors import ConfigError, PruneBenchError
from prune_bench.models import build_model
from prune_bench.packing import can_pack
from prune_bench.randomness import generator
from prune_bench.sweep.stages import Stage

_MOST = 8
_PIXELS = 2**16  # of a pack's step: beyond that a CPU gains nothing more (benchmarks/README.md)


def pack_sizes(experiment: Experiment, data: DataSet, device: str) -> Callable[[Stage], int]:
    """How many lanes a stage's pack may have.

    Args:
        experiment: ``train.pack`` is a number or ``auto``.
        data: Tells the networks' input.
        device: What the cells run on; ``auto`` packs on the CPU only, where it has been measured. Cells that take
            several devices each are never packed.

    Raises:
        ConfigError: Packing is asked for, and the network cannot be packed.
    """
    wanted, model = experiment.train.pack, experiment.model
    if wanted == 1 or experiment.devices.per_cell > 1 or (wanted == "auto" and device != "cpu"):
        return lambda stage: 1
    network = _network(experiment, data)
    if network is None or not can_pack(network, data.input_shape):
        # A network that does not run is no reason to end here: its cells fail, each with what it said.
        if wanted == "auto" or network is None or not _runs(network, data.input_shape):
            return lambda stage: 1
        raise ConfigError(
            "train.pack", wanted, f"is not possible: {model.name} has layers that cannot go side by side"
        )
    if wanted != "auto":
        return lambda stage: wanted
    pixels = math.prod(data.input_shape[1:])
    return lambda stage: max(1, min(_MOST, _PIXELS // (stage.step_images * pixels)))


def _network(experiment: Experiment, data: DataSet) -> nn.Module | None:
    """The experiment's network, or None if it cannot be made.

    Raises:
        PruneBenchError: It says itself what is wrong with its options.
    """
    try:
        return build_model(
            experiment.model.name, experiment.model.options, input_shape=data.input_shape,
            num_classes=data.num_classes, generator=generator(0, "can_pack"),
        )  # fmt: skip
    except PruneBenchError:
        raise
    except Exception:
        return None


@torch.no_grad()
def _runs(network: nn.Module, input_shape: Sequence[int]) -> bool:
    try:
        with torch.random.fork_rng(devices=[]):
            network(torch.ones(4, *input_shape))
    except Exception:
        return False
    return True
