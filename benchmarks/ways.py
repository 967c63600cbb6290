"""Which way of putting cells side by side is fastest, and on a GPU which way of running one.

python benchmarks/ways.py [--device cuda] [--runs 5] [--all] [--json FILE]

K cells at a time, each on a batch of its own that stays on the device: grouped convolutions (what a pack is), a vmap
over stacked parameters, a process each, and on a GPU a CUDA graph each, replayed on a stream of its own. ``--all``
takes ResNet-20 at batch 512 too, as a GPU always does; on a CPU that takes minutes and much memory.
"""

from __future__ import annotations

import contextlib
import copy
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from time import perf_counter

import torch
from rich.table import Table
from timing import Row, Times, arguments, clock, interleave, ratios, settle, show, spread, write
from torch import Tensor, multiprocessing, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F
from work import RESNET20, SMOKE, Case, Cell

from prune_bench.config import Precision
from prune_bench.mask import Mask
from prune_bench.packing import pack
from prune_bench.precision import products, run_in
from prune_bench.training.descent import Descent, clip_lanes_

LANES = (1, 2, 4, 8)
Step = Callable[[], object]


def batch(cell: Cell) -> tuple[Tensor, Tensor]:
    """The one batch that a cell is trained on."""
    return next(iter(cell.data.epoch(0, cell.recipe.batch_size, augment=True)))


def bare(
    cell: Cell, *, layout: torch.memory_format = torch.channels_last, precision: Precision = "float32", mode: str = ""
) -> Step:
    """A step in plain PyTorch; ``mode`` is torch.compile's, if it is to be compiled."""
    network = copy.deepcopy(cell.network).to(memory_format=layout).train()
    if mode:
        network.compile(mode=mode)
    x, y = batch(cell)
    x, recipe = x.contiguous(memory_format=layout), cell.recipe
    optimiser = torch.optim.SGD(
        network.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, fused=True
    )

    def step() -> None:
        optimiser.zero_grad()
        with products(precision):
            F.cross_entropy(run_in(precision, network, x), y).backward()
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
        optimiser.step()

    return step


def grouped(cells: Sequence[Cell]) -> Step:
    """A step of all cells as a pack does it."""
    network = pack([copy.deepcopy(cell.network) for cell in cells])
    mask, (xs, ys) = Mask.side_by_side([cell.mask for cell in cells]), zip(*map(batch, cells))
    descent = Descent(network, mask, cells[0].recipe, lanes=len(cells))
    return partial(descent.step, torch.cat(xs, 1), torch.stack(ys))


def vmapped(cells: Sequence[Cell]) -> Step:
    """A step of all cells by torch.func, the same arithmetic by hand."""
    networks, recipe = [copy.deepcopy(cell.network) for cell in cells], cells[0].recipe
    for network, cell in zip(networks, cells):
        cell.mask.apply_(network)
    stacked, _ = stack_module_state(networks)
    parameters = {name: values.detach() for name, values in stacked.items()}
    keep = {name: torch.stack([cell.mask[name] for cell in cells]).to(parameters[name]) for name in cells[0].mask}
    momenta = [torch.zeros_like(values) for values in parameters.values()]
    x, y = (torch.stack(parts) for parts in zip(*map(batch, cells)))

    def loss(own: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(networks[0], own, (x,)), y)

    def step() -> None:
        with products("float32"):
            found = vmap(grad(loss))(parameters, x, y)
        torch._foreach_mul_([found[name] for name in keep], list(keep.values()))
        gradients, values = [found[name] for name in parameters], list(parameters.values())
        clip_lanes_(gradients, len(cells), recipe.clip_norm)
        torch._foreach_add_(gradients, values, alpha=recipe.weight_decay)
        torch._foreach_mul_(momenta, recipe.momentum)
        torch._foreach_add_(momenta, gradients)
        torch._foreach_add_(values, momenta, alpha=-recipe.lr)

    return step


class Captured:
    """A step as a CUDA graph, captured and replayed on a stream of its own."""

    def __init__(self, step: Step) -> None:
        self._step = step  # holds the tensors that the graph works on
        self._graph, self._stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(3):  # the optimiser's state is made, and algorithms are chosen
                step()
        torch.cuda.synchronize()
        with torch.cuda.graph(self._graph, stream=self._stream):
            step()

    def __call__(self) -> None:
        with torch.cuda.stream(self._stream):
            self._graph.replay()


class Processes:
    """Processes that each train a cell when told to."""

    def __init__(self, case: Case, device: torch.device, steps: int) -> None:
        self._steps, self._pipes, self._processes = steps, [], []
        context = multiprocessing.get_context("spawn")
        for seed in range(max(LANES)):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, case, seed, device, steps), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)
        for pipe in self._pipes:
            pipe.recv()

    def close(self) -> None:
        """Ends them: idle ones hold memory, of a GPU too."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join()

    def seconds(self, k: int) -> float:
        """Seconds a cell's step with ``k`` of them at work."""
        for pipe in self._pipes[:k]:
            pipe.send("go")
        spans = [pipe.recv() for pipe in self._pipes[:k]]
        return (max(ended for _, ended in spans) - min(begun for begun, _ in spans)) / (k * self._steps)


def _serve(pipe: Connection, case: Case, seed: int, device: torch.device, steps: int) -> None:
    settle()
    once = clock(repeated([bare(Cell.of(case, seed, device, epochs=1))], steps), device)
    once()
    pipe.send("ready")
    with contextlib.suppress(EOFError):  # the other end is gone
        while pipe.recv():
            begun = perf_counter()
            once()
            pipe.send((begun, perf_counter()))


def repeated(steps: Sequence[Step], times: int = 1) -> Step:
    """The steps in turn, so many times; what a GPU is given on several streams it may do at once."""

    def run() -> None:
        for _ in range(times):
            for step in steps:
                step()

    return run


Way = tuple[str, int, Callable[[], Step]]
"""What it is called, how many cells it takes, and what sets it up."""


def alone(cell: Cell) -> list[Way]:
    """Ways of running one cell; all but the first are for a GPU."""
    plain = partial(bare, cell)
    if cell.device.type != "cuda":
        return [("bare loop", 1, plain)]
    contiguous, half = {"layout": torch.contiguous_format}, {"precision": "bfloat16"}
    return [
        ("bare loop", 1, plain),
        ("not channels-last", 1, partial(plain, **contiguous)),
        ("tf32", 1, partial(plain, precision="tf32")),
        ("bfloat16", 1, partial(plain, **half)),
        ("torch.compile", 1, partial(plain, mode="default")),
        ("torch.compile, reduce-overhead", 1, partial(plain, mode="reduce-overhead")),
        ("CUDA graph", 1, lambda: Captured(plain())),
        ("CUDA graph, not channels-last", 1, lambda: Captured(plain(**contiguous))),
        ("CUDA graph, bfloat16", 1, lambda: Captured(plain(**half))),
    ]


def together(cells: Sequence[Cell]) -> list[Way]:
    """Ways of running cells side by side in one process."""
    k = len(cells)
    ways: list[Way] = [(f"{k} grouped", k, partial(grouped, cells)), (f"{k} by vmap", k, partial(vmapped, cells))]
    if cells[0].device.type == "cuda":
        ways.append((f"{k} graphs on streams", k, lambda: repeated([Captured(bare(cell)) for cell in cells])))
    return ways


def timed(case: Case, device: torch.device, steps: int, runs: int) -> tuple[list[Row], Times, list[str]]:
    """Every way of a case and its times, and a line for each that could not be set up."""
    cells = [Cell.of(case, seed, device, epochs=1) for seed in range(max(LANES))]
    against, rows, failed = f"{case.name}: bare loop", [], []
    packed = [way for k in LANES for way in together(cells[:k])]
    for what, count, make in [*alone(cells[0]), *packed]:
        try:
            step = make()
            step()  # what is compiled or chosen when it is first run is done now
        except (RuntimeError, TypeError) as error:
            failed.append(f"{case.name}: {what} is not possible: {str(error).splitlines()[0]}")
            continue
        rows.append(
            Row(f"{case.name}: {what}", clock(repeated([step], steps), device, count * steps), "step", against)
        )
    processes = Processes(case, device, steps)
    rows += [Row(f"{case.name}: {k} processes", partial(processes.seconds, k), "step", against) for k in LANES]
    try:
        return rows, interleave(rows, runs), failed
    finally:
        processes.close()


def laid_out(rows: Sequence[Row], times: Times) -> Table:
    """The rows as a table of speeds."""
    table = Table("way")
    for column in ("cells' steps a second", "speed", "range"):
        table.add_column(column, justify="right")
    for row in rows:
        speeds = [1 / ratio for ratio in ratios(row, times)]
        table.add_row(row.what, f"{1 / statistics.median(times[row.what]):,.1f}", *spread(speeds))
    return table


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--all", action="store_true", help="the large network on a CPU too")
    args = parser.parse_args()
    settle()
    gpu = args.device.type == "cuda"
    rows, times, notes = timed(SMOKE, args.device, 100 if gpu else 20, args.runs)
    if gpu or args.all:
        large, more, failed = timed(RESNET20, args.device, 20 if gpu else 1, args.runs)
        rows, times, notes = rows + large, times | more, notes + failed
    if not gpu:
        notes.append("CUDA graphs, streams, compiled and other single cells: only on a GPU (--device cuda)")
    if args.json:
        write(args.json, args.device, rows, times, notes=notes)
    show(laid_out(rows, times), args.device, *notes)


if __name__ == "__main__":
    main()
