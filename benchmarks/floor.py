"""The floor: what a step must compute and move, what the machine can, and how far above it a step is.

python benchmarks/floor.py [--device cuda] [--runs 5] [--no-measure] [--all] [--precision bfloat16] [--json FILE]

Operations are those of convolutions and linear layers, forward and backward. Bytes are counted twice. *Eager*: each
operator is a kernel that reads its inputs and writes its outputs, as eager execution has it. *Ideal*: inputs and
outputs of convolutions and linear layers cross memory once a pass (forward, gradient of the input, gradient of the
weight), all between them is fused into these, and weights, gradients and the optimiser's state cross it once.
The floor is the longer of two times: operations at the rate of a large matrix product, ideal bytes at that of a large
copy. On a CPU only the smoke network is timed too; ``--all`` times the others, which takes minutes; counting takes
half a minute.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from typing import Any

import torch
from rich.table import Table
from timing import Row, Times, arguments, clock, interleave, settle, show, write
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from work import RESNET20, SMOKE, VGG16, Case, Cell, search, steps

from prune_bench.config import Precision
from prune_bench.data.protocol import Batch, DataSet
from prune_bench.mask import prunable_modules
from prune_bench.precision import products

CPU = torch.device("cpu")
FEW = (2, 4)  # images: what is linear in the batch is counted on so many
SEARCHES = ("cts", "cts_kl")
STEPS = 3  # of a counted training or search; the middle one is counted


@dataclass(frozen=True)
class Cost:
    """What a step computes and moves.

    Attributes:
        operations: Floating-point operations of convolutions and linear layers.
        eager: Bytes that its operators read and write in float32, each by itself.
        activations: Numbers that its layers must read and write.
        state: Numbers of weights, gradients and optimiser.
    """

    operations: float
    eager: float
    activations: float
    state: float

    def ideal(self, precision: Precision = "float32") -> float:
        """Bytes that must cross memory."""
        return (2 if precision == "bfloat16" else 4) * self.activations + 4 * self.state

    def floor(self, can: Ceilings, precision: Precision = "float32") -> float:
        """Seconds that it takes at least."""
        return max(self.operations / can.rates[precision], self.ideal(precision) / can.bandwidth)

    def towards(self, other: Cost, part: float) -> Cost:
        """This cost and a part of what the other has above it."""
        pairs = zip(astuple(self), astuple(other))
        return Cost(*(own + part * (theirs - own) for own, theirs in pairs))


@dataclass(frozen=True)
class Ceilings:
    """What a device can: operations a second by precision, and bytes a second."""

    rates: dict[Precision, float]
    bandwidth: float

    def __str__(self) -> str:
        rates = ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in self.rates.items())
        return f"large matrix product: {rates}; large copy: {self.bandwidth / 1e9:,.1f} GB/s"


def ceilings(device: torch.device) -> Ceilings:
    """Measures them, the best of several tries."""
    side, numbers = (8192, 2**28) if device.type == "cuda" else (1024, 2**26)

    def rate(dtype: torch.dtype, precision: Precision) -> float:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        with products(precision):
            return 2 * side**3 / _best(lambda: a @ b, device)

    rates = {"float32": rate(torch.float32, "float32"), "bfloat16": rate(torch.bfloat16, "float32")}
    if device.type == "cuda":
        rates["tf32"] = rate(torch.float32, "tf32")
    source, target = (torch.ones(numbers, device=device) for _ in range(2))
    return Ceilings(rates, 8 * numbers / _best(lambda: target.copy_(source), device))


def _best(work: Callable[[], Any], device: torch.device, tries: int = 10) -> float:
    once = clock(work, device)
    return min(once() for _ in range(tries))


class Traffic(TorchDispatchMode):
    """Counts the bytes that operators read and write; views and mere allocations move none."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in func.__name__:
            leaves = tree_leaves((args, kwargs, outputs))
            self.bytes += sum(leaf.numel() * leaf.element_size() for leaf in leaves if isinstance(leaf, Tensor))
        return outputs


class Marked:
    """A data set that notes the traffic so far whenever a batch is asked for."""

    def __init__(self, data: DataSet, traffic: Traffic) -> None:
        self._data, self._traffic = data, traffic
        self.marks: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)

    def epoch(self, epoch: int, batch_size: int, *, augment: bool) -> Iterator[Batch]:
        batches = self._data.epoch(epoch, batch_size, augment=augment)
        for _ in range(STEPS):
            self.marks.append(self._traffic.bytes)
            yield next(batches)


def step_costs(case: Case) -> dict[str, Cost]:
    """What a training step and a step of each search cost; counted on the CPU, on few images."""
    cell = Cell.of(case, 0, CPU, epochs=1)
    forward, both, first, layers = _passes(cell.network, next(cell.data.epoch(0, FEW[0], augment=False)))
    parameters = sum(p.numel() for p in cell.network.parameters())
    costs = {}
    for step in ("training", *SEARCHES):
        images = case.batch if step == "training" else case.search_batch
        dense = step == "cts_kl"
        costs[step] = Cost(
            operations=images * (both + dense * forward),
            eager=_eager(step, cell, images),
            # Three passes and, for the divergence, the dense one; the images themselves need no gradient.
            activations=images * ((3 + dense) * layers - first),
            # Weight, gradient, momentum; or weight, logit, gradient and Adam's two moments.
            state=3 * parameters if step == "training" else 5 * cell.mask.total,
        )
    return costs


def _passes(network: nn.Module, batch: Batch) -> tuple[float, float, float, float]:
    """Of one image: operations forward, forward and backward; numbers in and out of the first layer, of all."""
    sizes: list[int] = []
    layers = prunable_modules(network).values()
    hooks = [layer.register_forward_hook(lambda _m, i, o: sizes.append(i[0].numel() + o.numel())) for layer in layers]
    x, y = batch
    with FlopCounterMode(display=False) as counter:
        loss = F.cross_entropy(network(x), y)
        forward = counter.get_total_flops()
        loss.backward()
    for hook in hooks:
        hook.remove()
    return forward / len(y), counter.get_total_flops() / len(y), sizes[0] / len(y), sum(sizes) / len(y)


def _eager(step: str, cell: Cell, images: int) -> float:
    """Bytes that a real step on so many images moves, from those of steps on few."""
    few = []
    for size in FEW:
        with Traffic() as traffic:
            marked = Marked(cell.data, traffic)
            counted = replace(cell, data=marked, recipe=replace(cell.recipe, batch_size=size))
            if step == "training":
                steps(counted)
            else:
                search(step, [counted], steps=STEPS, batch_size=size)
        few.append(marked.marks[-1] - marked.marks[-2])
    slope = (few[1] - few[0]) / (FEW[1] - FEW[0])
    return few[0] + slope * (images - FEW[0])


def real_steps(case: Case, device: torch.device, epochs: int, precision: Precision) -> list[Row]:
    """The real steps of a case: as many of each search as a training of so many epochs has."""
    cell = Cell.of(case, 0, device, epochs=epochs)
    cell = replace(cell, recipe=replace(cell.recipe, precision=precision))
    how = {"steps": cell.steps, "batch_size": case.search_batch, "precision": precision}
    works = {"training": partial(steps, cell)}
    works |= {method: partial(search, method, [cell], **how) for method in SEARCHES}
    return [Row(f"{case.name} {step}", clock(work, device, cell.steps)) for step, work in works.items()]


def add_rows(
    table: Table, case: Case, costs: dict[str, Cost], can: Ceilings, times: Times, precision: Precision
) -> None:
    """A row a step: what it costs, its floors, and the step that was timed in ``precision`` over its floor in it."""
    for step, cost in costs.items():
        runs = times.get(f"{case.name} {step}")
        seen = statistics.median(runs) if runs else None
        table.add_row(
            f"{case.name} {step}",
            str(case.batch if step == "training" else case.search_batch),
            f"{cost.operations / 1e9:,.2f}",
            f"{cost.eager / 1e6:,.0f}",
            f"{cost.ideal() / 1e6:,.0f}",
            *(f"{1e3 * cost.floor(can, name):,.2f}" for name in can.rates),
            f"{1e3 * seen:,.2f}" if seen else "–",
            f"{seen / cost.floor(can, precision):.2f}" if seen else "–",
        )


def _plain(cost: Cost, can: Ceilings) -> dict[str, Any]:
    """A cost and its floors in seconds, by precision."""
    return asdict(cost) | {"floors": {precision: cost.floor(can, precision) for precision in can.rates}}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--measure", action=argparse.BooleanOptionalAction, default=True, help="time real steps too")
    parser.add_argument("--all", action="store_true", help="time the large networks on a CPU too")
    parser.add_argument("--precision", default="float32", help="of the real steps: float32, bfloat16, tf32 on a GPU")
    args = parser.parse_args()
    settle()
    cases, can = (SMOKE, RESNET20, VGG16), ceilings(args.device)
    gpu = args.device.type == "cuda"
    rows = []
    for case in cases if args.measure else ():
        if case is SMOKE or gpu or args.all:
            epochs = 5 if case is SMOKE else 10 if gpu else 2
            rows += real_steps(case, args.device, epochs, args.precision)
    times = interleave(rows, args.runs) if rows else {}
    costs = {case.name: step_costs(case) for case in cases}
    table = Table("step")
    floors = [f"floor ms\n{precision}" for precision in can.rates]
    for name in ("images", "GFLOP", "MB\neager", "MB\nideal", *floors, f"measured ms\n{args.precision}", "×\nfloor"):
        table.add_column(name, justify="right")
    for case in cases:
        add_rows(table, case, costs[case.name], can, times, args.precision)
    if args.json:
        plain = {f"{case} {step}": _plain(cost, can) for case, own in costs.items() for step, cost in own.items()}
        write(args.json, args.device, rows, times, precision=args.precision, ceilings=asdict(can), costs=plain)
    show(table, args.device, str(can))


if __name__ == "__main__":
    main()
