"""What was measured on a kind of GPU, kept in the user's cache: whether replay is right, and what packs gain.

``prune-bench doctor`` writes a profile; a sweep reads it. It is of one GPU's name and of the versions of torch, cuDNN
and the driver: with others it is not used.
"""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from prune_bench.config import Precision
from prune_bench.gpus import visible_gpus
from prune_bench.options import AboveZero, NonNegative, Positive, ZeroOrMore
from prune_bench.places import cache_root

_FORMAT = 1
_GAIN = 1.05  # a larger pack must be quicker by this, a lane: timings of a few steps differ by some percent
MOST_MEMORY = 0.8
"""The part of a GPU's memory that a pack may take."""


@dataclass(frozen=True, kw_only=True)
class Versions:
    """Whose profile it is.

    Attributes:
        gpu: The GPU's name.
        torch: torch's version.
        cudnn: cuDNN's.
        driver: The driver's.
    """

    gpu: str
    torch: str
    cudnn: str
    driver: str


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """The time of a training step.

    Attributes:
        network: As :func:`prune_bench.sweep.pack_sizes.network_mark` names it.
        batch: Images a step and lane.
        precision: Arithmetic of the passes.
        lanes: Networks side by side.
        layout: Of images in memory, ``channels_last`` or ``contiguous``.
        own: Whether trainings use this layout here.
        plain_ms: Milliseconds of a plain step of all lanes.
        replayed_ms: Of a replayed one; None if it cannot be replayed.
        peak_bytes: The most memory it took.
    """

    network: str
    batch: Positive
    precision: Precision
    lanes: Positive
    layout: str
    own: bool
    plain_ms: AboveZero
    replayed_ms: AboveZero | None
    peak_bytes: NonNegative


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """A profile.

    Attributes:
        versions: What it was measured with.
        when: The day.
        memory_bytes: The GPU's memory.
        replay: For each kind of step, such as ``training bfloat16``, the relative difference that replay made: 0 if
            all bits were equal.
        steps: What steps took.
        format: Of the file.
    """

    versions: Versions
    when: str
    memory_bytes: Positive
    replay: dict[str, ZeroOrMore]
    steps: tuple[StepTime, ...]
    format: int = _FORMAT

    @property
    def replay_passed(self) -> bool:
        """Whether every kind of step was tried, and replay changed no bit of any."""
        return bool(self.replay) and not any(self.replay.values())

    def best_lanes(self, network: str, batch: int, precision: str) -> int | None:
        """The fewest lanes that are about as quick, a lane, as any that fit; None if that was not measured."""
        rows = [s for s in self.steps if s.own and (s.network, s.batch, s.precision) == (network, batch, precision)]
        rows = [s for s in rows if s.lanes == 1 or s.peak_bytes <= MOST_MEMORY * self.memory_bytes]
        if not rows:
            return None
        least = min(self._ms(step) / step.lanes for step in rows)
        return min(step.lanes for step in rows if self._ms(step) / step.lanes <= least * _GAIN)

    def _ms(self, step: StepTime) -> float:
        replayed = step.replayed_ms if self.replay_passed else None
        return step.plain_ms if replayed is None else replayed


def profile_path(versions: Versions) -> Path:
    """Where a profile lies: ``<cache>/devices/<GPU name>-<torch>-<cuDNN>-<driver>.json``."""
    words = "-".join((versions.gpu, versions.torch, versions.cudnn, versions.driver))
    name = re.sub(r"[^\w.+-]", "_", words)
    return cache_root() / "devices" / f"{name}.json"


def write_profile(profile: DeviceProfile) -> Path:
    """Keeps a profile, with what was measured before of other networks and batches.

    Raises:
        OSError: The cache cannot be written.
    """
    path, before = profile_path(profile.versions), read_profile(profile.versions)
    values = asdict(profile)
    if before is not None:
        new = {(s.network, s.batch, s.precision) for s in profile.steps}
        kept = [asdict(s) for s in before.steps if (s.network, s.batch, s.precision) not in new]
        values["steps"] = [*kept, *values["steps"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        aside.write_text(json.dumps(values, indent=1))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def read_profile(versions: Versions) -> DeviceProfile | None:
    """The profile of this GPU and these versions; None if there is none, or it is damaged or of other versions."""
    with contextlib.suppress(OSError, ValidationError):
        found = _adapter().validate_json(profile_path(versions).read_bytes())
        if isinstance(found, DeviceProfile) and (found.versions, found.format) == (versions, _FORMAT):
            return found
    return None


def local_versions() -> list[Versions]:
    """Whose profiles tell of the GPUs that are visible here, each kind once."""
    import torch

    cudnn = str(torch.backends.cudnn.version())
    kinds = dict.fromkeys((gpu.name, gpu.driver) for gpu in visible_gpus())
    return [Versions(gpu=name, torch=torch.__version__, cudnn=cudnn, driver=driver) for name, driver in kinds]


def local_profiles() -> list[DeviceProfile]:
    """A profile for each kind of GPU that is visible here; empty if one of them has none."""
    found = [read_profile(versions) for versions in local_versions()]
    there = [profile for profile in found if profile is not None]
    return there if len(there) == len(found) else []


def replay_is_off() -> str:
    """Why steps are not replayed on the GPUs that are visible here; empty if they are."""
    profiles = local_profiles()
    if not profiles:
        return "not tried yet (prune-bench doctor)"
    if all(profile.replay_passed for profile in profiles):
        return ""
    changed = sorted({kind for profile in profiles for kind, apart in profile.replay.items() if apart})
    return (
        f"tried, and it changes bits ({', '.join(changed)})"
        if changed
        else "tried, and not every step can be recorded"
    )


@lru_cache(maxsize=1)
def _adapter() -> Any:
    return TypeAdapter(DeviceProfile)
