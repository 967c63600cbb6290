"""How many cells may go side by side: as many as the network and the machine gain from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import nn

from prune_bench.config import Experiment
from prune_bench.data.protocol import DataSet
from prune_bench.device_profile import DeviceProfile, local_profiles
from prune_bench.errors import ConfigError, PruneBenchError
from prune_bench.models import build_model, models
from prune_bench.packing import can_pack
from prune_bench.randomness import generator
from prune_bench.sweep.cells import read_choice
from prune_bench.sweep.run_folder import read_lanes, write_lanes
from prune_bench.sweep.stages import Stage

_MOST = 8
_PIXELS = 2**16  # of a pack's step: beyond that a CPU gains nothing more (benchmarks/README.md)


def pack_sizes(experiment: Experiment, data: DataSet, device: str) -> Callable[[Stage], int]:
    """How many lanes a stage's pack may have.

    Args:
        experiment: ``train.pack`` is a number or ``auto``.
        data: Tells the networks' input.
        device: What the cells run on; ``auto`` packs on the CPU, and on a GPU as the run's folder or else the GPU's
            profile says. Cells that take several devices each are never packed.

    Raises:
        ConfigError: Packing is asked for, and the network cannot be packed.
        PruneBenchError: What the run's folder says of its packs cannot be read or written.
    """
    wanted, model = experiment.train.pack, experiment.model
    if wanted == 1 or experiment.devices.per_cell > 1 or (wanted == "auto" and device not in ("cpu", "cuda")):
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
    if device == "cuda":
        return PinnedSizes(
            experiment.folder, network_mark(experiment, data.input_shape, data.num_classes), local_profiles()
        )
    pixels = math.prod(data.input_shape[1:])
    return lambda stage: max(1, min(_MOST, _PIXELS // (stage.step_images * pixels)))


def network_mark(experiment: Experiment, input_shape: tuple[int, ...], classes: int) -> str:
    """The experiment's network on such images, in one line of JSON: name, options, input shape, classes."""
    model = read_choice(models, experiment.model, "model")
    return json.dumps([model["name"], model["options"], list(input_shape), classes], sort_keys=True)


class PinnedSizes:
    """Sizes of packs on a GPU: as the run's folder says, and what it does not say yet as the profiles do.

    What is decided once is kept in the folder: a run that goes on after its GPU was measured anew, or on another one,
    has the packs that it began with.

    Args:
        folder: The run's; where there is none yet, nothing is kept.
        network: The mark of its network.
        profiles: One a kind of GPU; what fits all of them is taken. Without any, nothing is packed.
    """

    def __init__(self, folder: Path, network: str, profiles: Iterable[DeviceProfile]) -> None:
        self._folder, self._network, self._profiles = folder, network, list(profiles)
        self._pinned = read_lanes(folder)

    def __call__(self, stage: Stage) -> int:
        """The most lanes of a stage's pack."""
        if not stage.step_images:
            return 1
        precision = _precision(stage)
        mark = f"{self._network} batch {stage.step_images} {precision}"
        if mark not in self._pinned:
            measured = [own.best_lanes(self._network, stage.step_images, precision) for own in self._profiles]
            lanes = min(_MOST, *(best or 1 for best in measured)) if measured else 1
            self._pinned |= write_lanes(self._folder, {mark: lanes}) if self._folder.is_dir() else {mark: lanes}
        return self._pinned[mark]


def _precision(stage: Stage) -> str:
    """The arithmetic of its steps; the planner leaves the default unsaid."""
    said = stage.spec.get("recipe") or stage.spec.get("options", {})
    return str(said.get("precision", "float32"))


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
