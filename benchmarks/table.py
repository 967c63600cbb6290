"""What all of this costs, in one table: steps, packs, searches, the engine, and other people's.

python benchmarks/table.py [--device cuda] [--runs 5] [--json FILE]

The smoke network on the digits, one thread. Rows are timed in turn, after a warm-up; a time is a median, a ratio that
of two times of the same round. Of cells side by side the time is that of one. ``floor.py`` says what the floor is;
``PEERS`` names a folder of other people's code to compare with (``peers.py``).
"""

from __future__ import annotations

import copy
import statistics
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import engine
from floor import Ceilings, Cost, ceilings, step_costs
from peers import peers
from rich.table import Table
from timing import Row, Times, arguments, clock, interleave, ratios, said, settle, show, spread, write
from work import SMOKE, Cell, bare, search, steps, trainings

EPOCHS, STEPS = 10, 100  # of a training, of a concrete search
LANES = (2, 4, 8)


def training_rows(cells: Sequence[Cell], floor: float) -> list[Row]:
    """A training step ever more dressed up, then side by side with others."""
    cell = cells[0]
    works = {
        "bare loop": lambda: bare(copy.deepcopy(cell.network), cell.data, cell.recipe),
        "bare loop, torch.nn.utils.prune": lambda: bare(
            cell.mask.to_torch_prune(copy.deepcopy(cell.network)), cell.data, cell.recipe
        ),
        "our step": lambda: steps(cell),
        "whole training": lambda: trainings(cells[:1]),
    }
    rows = [
        Row(what, clock(work, cell.device, cell.steps), "step", "bare loop", floor) for what, work in works.items()
    ]
    for k in LANES:
        packed = clock(partial(trainings, cells[:k]), cell.device, k * cell.steps)
        rows.append(Row(f"whole training, {k} side by side", packed, "step", "bare loop", floor))
    return rows


def search_rows(cells: Sequence[Cell], costs: dict[str, Cost], can: Ceilings) -> list[Row]:
    """Every method that searches, and concrete searches side by side."""
    cell, eight = cells[0], max(LANES)
    rows = [
        Row(method, clock(partial(search, method, [cell]), cell.device), "search")
        for method in ("snip", "grasp", "synflow")
    ]
    level = clock(partial(search, "ltr", [cell], density=0.8), cell.device, cell.steps)
    rows.append(Row("ltr, a level", level, "step", "bare loop", costs["training"].floor(can)))
    shared = costs["cts"].towards(costs["cts_kl"], 1 / eight)
    for what, method, lanes, cost in (
        ("cts", "cts", [cell], costs["cts"]),
        (f"cts, {eight} side by side", "cts", cells, costs["cts"]),
        ("cts_kl", "cts_kl", [cell], costs["cts_kl"]),
        (f"cts_kl, {eight} side by side", "cts_kl", cells, costs["cts_kl"]),
        (f"cts_kl, {eight} of one network and data", "cts_kl", [cell] * eight, shared),
    ):
        find = partial(search, method, lanes, steps=STEPS, batch_size=SMOKE.search_batch)
        seconds = clock(find, cell.device, STEPS * len(lanes))
        rows.append(Row(what, seconds, "step", method, cost.floor(can)))
    return rows


def engine_rows(place: Path) -> list[Row]:
    """What a sweep costs around its computations."""
    idle = engine.idle_commands(place / "done")
    rows = [
        Row("stage that computes nothing", lambda: engine.stage_seconds(Path(tempfile.mkdtemp(dir=place))), "stage")
    ]
    return rows + [Row(what, partial(engine.command_seconds, words), "") for what, words in idle.items()]


def laid_out(sections: Sequence[Sequence[Row]], times: Times) -> Table:
    """The rows as a table."""
    table = Table("what", "time", "of", "ratio", "range", "× floor")
    for column in (table.columns[1], *table.columns[3:]):
        column.justify = "right"
    for rows in sections:
        table.add_section()
        for row in rows:
            seconds = statistics.median(times[row.what])
            against = row.against if row.against != row.what else None
            compared = spread(ratios(row, times)) if against else ("–", "–")
            above = f"{seconds / row.floor:.1f}" if row.floor else "–"
            table.add_row(row.what, said(seconds, row.unit), against or "–", *compared, above)
    return table


def main() -> None:
    args = arguments(__doc__).parse_args()
    settle()
    costs, can = step_costs(SMOKE), ceilings(args.device)
    cells = [Cell.of(SMOKE, seed, args.device, epochs=EPOCHS) for seed in range(max(LANES))]
    floor = costs["training"].floor(can)
    theirs, missing = peers(cells[0], floor)
    with tempfile.TemporaryDirectory() as place:
        sections = [
            training_rows(cells, floor),
            search_rows(cells, costs, can),
            theirs,
            engine_rows(Path(place)),
        ]
        rows = [row for section in sections for row in section]
        times = interleave(rows, args.runs)
    if args.json:
        write(args.json, args.device, rows, times, ceilings=vars(can))
    show(laid_out(sections, times), args.device, str(can), *missing)


if __name__ == "__main__":
    main()
