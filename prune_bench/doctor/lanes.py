"""What the experiment's own network costs on a device: time and memory of a step, by lanes, layout and replay."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

import torch
from torch import Tensor, nn

from prune_bench.config import Experiment, Precision, Recipe
from prune_bench.device_profile import MOST_MEMORY, StepTime
from prune_bench.doctor.lines import Line, Subject
from prune_bench.mask import Mask
from prune_bench.models import build_model
from prune_bench.packing import can_pack, pack
from prune_bench.precision import repeatable
from prune_bench.randomness import generator
from prune_bench.sweep.cells import read_methods
from prune_bench.sweep.executors.device_faults import Fault, fault_of
from prune_bench.sweep.pack_sizes import network_mark
from prune_bench.training.descent import Descent
from prune_bench.training.replay import Replayed, record_of, recorded_steps

LANES = (1, 2, 4, 8)
_LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
_WARM_UP, _MOST_STEPS, _SECONDS = 6, 50, 0.3


class Bench:
    """Trains the experiment's network on random images, to see what a step costs.

    Args:
        experiment: Names network and recipe.
        shape: Of an image, (C, H, W).
        classes: How many.
        device: Where.
    """

    def __init__(self, experiment: Experiment, shape: tuple[int, ...], classes: int, device: torch.device) -> None:
        self._experiment, self._shape, self._classes, self._device = experiment, shape, classes, device
        self.mark = network_mark(experiment, shape, classes)

    def network(self) -> nn.Module:
        """The experiment's network, fresh."""
        model = self._experiment.model
        return build_model(
            model.name, model.options, input_shape=self._shape, num_classes=self._classes,
            generator=generator(0, "doctor"),
        )  # fmt: skip

    def step_time(self, batch: int, precision: Precision, lanes: int, *, other_layout: bool = False) -> StepTime:
        """Times a step, plain and, on a GPU, replayed.

        Args:
            batch: Images a lane.
            precision: Arithmetic of the passes.
            lanes: Networks side by side.
            other_layout: Take the layout of images that trainings here do not use.

        Raises:
            RuntimeError: It does not fit.
        """
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
        networks = [self.network().to(self._device) for _ in range(lanes)]
        mask = Mask.side_by_side([Mask.full(network) for network in networks])
        descent = Descent(pack(networks), mask, Recipe(batch_size=batch, precision=precision), lanes=lanes)
        channels, height, width = self._shape
        x = torch.randn(batch, lanes * channels, height, width, device=self._device)
        y = torch.randint(self._classes, (lanes, batch), device=self._device)
        with repeatable(self._device):
            return self._timed(descent, x, y, other_layout=other_layout)

    def _timed(self, descent: Descent, x: Tensor, y: Tensor, *, other_layout: bool) -> StepTime:
        cuda = self._device.type == "cuda"
        descent.step(x, y)  # which chooses the layout
        layout = _layout(descent.network)
        if other_layout:
            (layout,) = set(_LAYOUTS) - {layout}
            descent.network.to(memory_format=_LAYOUTS[layout])  # type: ignore[call-overload]
            descent.optimizer.state.clear()
        plain = _milliseconds(lambda: descent.step(x, y), self._device)
        replayed = self._replayed(descent, x, y) if cuda else None
        peak = torch.cuda.max_memory_reserved(self._device) if cuda else _peak_rss()
        return StepTime(
            network=self.mark, batch=len(x), precision=descent.recipe.precision, lanes=descent.lanes, layout=layout,
            own=not other_layout, plain_ms=plain, replayed_ms=replayed, peak_bytes=peak,
        )  # fmt: skip

    def _replayed(self, descent: Descent, x: Tensor, y: Tensor) -> float | None:
        """Milliseconds of a replayed step; None where a graph cannot be made, or does not fit."""
        try:
            with recorded_steps("graph") as recording:
                step = Replayed(descent.step, record_of(self._device))
                milliseconds = _milliseconds(lambda: step(x, y), self._device)
        except RuntimeError:
            return None
        return milliseconds if recording.replayed and not recording.refused else None


def look(subject: Subject) -> Iterator[Line]:
    """A line for each batch size and arithmetic of the experiment, and one for memory."""
    known, device = subject.known, torch.device(subject.device)
    if "input_shape" not in known:
        yield Line(name="steps", verdict="skipped", words="the data set's images are not known")
        return
    torch.set_num_threads(subject.experiment.devices.threads)
    shape = tuple(known["input_shape"])
    bench, steps = Bench(subject.experiment, shape, known["classes"], device), []
    lanes = LANES if device.type == "cuda" and can_pack(bench.network(), shape) else (1,)
    for batch, precision in batches(subject.experiment):
        if precision == "bfloat16" and known.get("bfloat16") is False:
            continue
        found = _measured(bench, batch, precision, lanes, both_layouts=device.type == "cuda")
        steps += found
        yield Line(name="steps", verdict="figure", words=_words(batch, precision, found), values={
            "steps": [asdict(step) for step in steps]})  # fmt: skip
    yield (
        fits_gpu(steps, known["memory_bytes"])
        if device.type == "cuda"
        else fits_machine(_peak_rss(), len(known.get("slots") or ["cpu"]), known.get("memory_free"))
    )


def batches(experiment: Experiment) -> list[tuple[int, Precision]]:
    """Images a step and arithmetic, of trainings and of searches that can go side by side; each once."""
    train = experiment.train
    found: list[tuple[int, Precision]] = [(train.batch_size, train.precision)]
    for method in read_methods(experiment).values():
        if images := method.pruner.step_images(method.options, train):
            own: Precision = (
                train.precision if method.pruner.trains else getattr(method.options, "precision", "float32")
            )
            found.append((images, own))
    return list(dict.fromkeys(found))


def fits_gpu(steps: list[StepTime], total: int) -> Line:
    """How many lanes a GPU's memory holds.

    Args:
        steps: What was measured.
        total: The GPU's memory in bytes.
    """
    largest = max((step for step in steps if step.own), key=lambda step: step.batch, default=None)
    if largest is None or min(step.lanes for step in steps) > 1:
        words = "not even one network fits: take a smaller train.batch_size, or devices.per_cell"
        return Line(name="fits", verdict="mend", words=words)
    alike = [s for s in steps if s.own and (s.batch, s.precision) == (largest.batch, largest.precision)]
    first, last = alike[0], alike[-1]
    words = f"{first.peak_bytes / 1e9:.2f} GB for a step of batch {first.batch}"
    if first.peak_bytes > MOST_MEMORY * total:
        words += f", more than {MOST_MEMORY:.0%} of the memory: take a smaller batch, or devices.per_cell"
        return Line(name="fits", verdict="mend", words=words)
    if last.lanes > first.lanes:
        lane = max(1.0, (last.peak_bytes - first.peak_bytes) / (last.lanes - first.lanes))
        most = 1 + int((MOST_MEMORY * total - first.peak_bytes) / lane)
        words += f", {lane / 1e9:.2f} GB for each lane more: {most} lanes fit in {MOST_MEMORY:.0%}"
    return Line(name="fits", verdict="figure", words=words)


def fits_machine(peak: int, slots: int, free: int | None) -> Line:
    """Whether a CPU machine has memory for all of its workers.

    Args:
        peak: Bytes that a worker takes.
        slots: Workers at once.
        free: Bytes that are free; None if that is not known.
    """
    words = f"a worker takes {peak / 1e9:.1f} GB, {slots} at once {slots * peak / 1e9:.1f} GB"
    if free is None or slots * peak <= free:
        return Line(name="fits", verdict="figure", words=words)
    few = max(1, int(free // peak))
    words += f", and {free / 1e9:.1f} GB are free: set devices.count={few}, or take a smaller batch"
    return Line(name="fits", verdict="mend", words=words)


def _measured(
    bench: Bench, batch: int, precision: Precision, lanes: tuple[int, ...], *, both_layouts: bool
) -> list[StepTime]:
    found: list[StepTime] = []
    for count in lanes:
        for other in (False, True) if both_layouts else (False,):
            try:
                found.append(bench.step_time(batch, precision, count, other_layout=other))
            except RuntimeError as error:
                if fault_of(error) is not Fault.MEMORY:
                    raise
                return sorted(found, key=lambda step: not step.own)
    return sorted(found, key=lambda step: not step.own)


def _words(batch: int, precision: str, steps: list[StepTime]) -> str:
    words = [f"batch {batch}, {precision}, ms by lanes {'/'.join(str(step.lanes) for step in steps if step.own)}"]
    for layout in dict.fromkeys(step.layout for step in steps):
        rows = [step for step in steps if step.layout == layout]
        words.append(f"{layout}: plain {'/'.join(f'{step.plain_ms:.3g}' for step in rows)}")
        if all(step.replayed_ms is not None for step in rows):
            words[-1] += f", replayed {'/'.join(f'{step.replayed_ms:.3g}' for step in rows)}"
    return "; ".join(words)


def _milliseconds(step: Callable[[], object], device: torch.device) -> float:
    """Mean time of a step, after some that are not counted; of long steps only few are made."""
    warm, steps = _run(step, device, 1), 1
    if warm < _SECONDS:
        _run(step, device, _WARM_UP)
        steps = max(1, min(_MOST_STEPS, int(_SECONDS / max(warm, 1e-4))))
    return 1e3 * _run(step, device, steps) / steps


def _run(step: Callable[[], object], device: torch.device, times: int) -> float:
    begun = time.perf_counter()
    for _ in range(times):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def _layout(network: nn.Module) -> str:
    """The memory layout of its convolutions; of weights that fit both, nothing can be told."""
    for weight in network.parameters():
        last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
        if weight.dim() == 4 and last != weight.is_contiguous():
            return "channels_last" if last else "contiguous"
    return "contiguous"


def _peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
