"""What a sweep will cost, in words, before any of it is spent."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from rich.console import Console

from prune_bench.config import Experiment
from prune_bench.data.protocol import DataSet
from prune_bench.sweep.graph import remaining_cost, users_of, with_inputs
from prune_bench.sweep.progress import clock, estimate
from prune_bench.sweep.stages import KINDS, Plan, Stage
from prune_bench.untrusted import say

_PROBE_SECONDS = 2.0


def say_plan(
    plan: Plan, todo: Mapping[str, Stage], experiment: Experiment, devices: list[str], console: Console
) -> None:
    """Prints cells, stages, what is there already, the work with and without sharing, and the devices."""
    counts = Counter(stage.kind for stage in todo.values())
    there = len(plan.stages) - len(todo)
    lines = [f"{experiment.name}: {len(plan.cells)} cells, {len(plan.stages)} stages, {len(todo)} to do"]
    if todo:
        parts = ", ".join(f"{counts[kind]} {kind}s" for kind in KINDS if counts[kind])
        lines.append(f"  to do: {parts}; {there} stages are there already or no longer needed")
        with_sharing, without = sharing(plan)
        left = sum(stage.cost for stage in todo.values())
        lines.append(
            f"  work: {left:,.0f} dense epochs to do; the whole plan is {with_sharing:,.0f}, "
            f"and would be {without:,.0f} if every cell did its own"
        )
    names = ", ".join(f"{count} x {name}" for name, count in Counter(devices).items())
    lines.append(f"  devices: {names}; {experiment.devices.threads} thread(s) a slot; results in {experiment.folder}")
    for line in lines:
        say(console, line, wrap=True)


def say_time(
    todo: Mapping[str, Stage], rates: Mapping[str, float], slots: int, console: Console, *, measured: bool
) -> None:
    """Prints how long it may take: the work over the slots, and no less than the longest chain.

    Args:
        todo: What is to be done.
        rates: Seconds a dense epoch, of :func:`prune_bench.sweep.progress.measured_rates` or :func:`probe`.
        slots: How many jobs run at once.
        console: Where.
        measured: Whether the rates are of earlier stages, or of a probe.
    """
    seconds = estimate(list(todo.values()), rates)
    if seconds is None:
        return
    chain = max((cost for key, cost in remaining_cost(todo, users_of(todo)).items() if todo[key].kind != "result"))
    least = chain * rates[""]
    how = "as stages of this run took before" if measured else f"at {rates['']:.2f} s a dense epoch, tried just now"
    say(console, f"  time: about {clock(max(seconds / slots, least))}, {how}")


def sharing(plan: Plan) -> tuple[float, float]:
    """The work of a plan in dense epochs, shared as planned and if each cell did all of its own."""
    cost = {key: stage.cost for key, stage in plan.stages.items()}
    alone: dict[tuple[str, str], float] = {}
    without = 0.0
    for key in plan.cells.values():
        inputs = plan.stages[key].inputs
        training = plan.stages[inputs["training"]]
        search = (inputs["ranking"], training.inputs["state"])
        if search not in alone:
            alone[search] = sum(cost[k] for k in with_inputs(search, plan.stages))
        without += alone[search] + training.cost
    return sum(cost.values()), without


def probe(experiment: Experiment, data: DataSet, device: str) -> dict[str, float]:
    """Measures what a dense epoch costs by training the experiment's network for about two seconds.

    Of several devices that share a batch, the first is given its share; what they exchange is left out.

    Returns:
        Seconds a dense epoch, under ``""``.
    """
    import torch

    from prune_bench.mask import Mask
    from prune_bench.models import build_model
    from prune_bench.randomness import generator
    from prune_bench.training.descent import Descent

    device, together = device.partition("+")[0], experiment.devices.per_cell
    torch.set_num_threads(experiment.devices.threads)
    network = build_model(
        experiment.model.name, experiment.model.options, input_shape=data.input_shape,
        num_classes=data.num_classes, generator=generator(0, "probe"),
    ).to(device)  # fmt: skip
    descent, recipe = Descent(network, Mask.full(network), experiment.train), experiment.train
    begun, steps = time.perf_counter(), -1  # the first step is the warm-up
    for x, y in data.to(torch.device(device)).epoch(0, max(1, recipe.batch_size // together), augment=True):
        descent.step(x, y).sum().item()
        steps += 1
        if steps == 0:
            begun = time.perf_counter()
        elif time.perf_counter() - begun > _PROBE_SECONDS:
            break
    return {"": (time.perf_counter() - begun) / max(steps, 1) * data.steps_per_epoch(recipe.batch_size)}
