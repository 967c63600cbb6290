"""Timing in turn: what is compared is run in the same rounds, one after the other, after a warm-up."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from prune_bench.memory import keep_freed_memory


@dataclass(frozen=True)
class Row:
    """Something to time.

    Attributes:
        what: What it is called.
        seconds: Does it once, and gives its seconds a unit.
        unit: What they are of.
        against: The row it is compared with.
        floor: Seconds a unit that the machine's ceilings leave it, where that is known.
    """

    what: str
    seconds: Callable[[], float]
    unit: str = "step"
    against: str | None = None
    floor: float | None = None


Times = dict[str, list[float]]
"""Of each row, by what it is called, its seconds a unit in every round."""


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """What all benchmarks that time in turn can be told."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--runs", type=int, default=5, help="rounds after the warm-up")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's times too")
    return parser


def settle() -> None:
    """Sets this process up as a sweep's workers are: one thread, freed memory kept."""
    torch.set_num_threads(1)
    keep_freed_memory()


def clock(work: Callable[[], Any], device: torch.device, units: int = 1) -> Callable[[], float]:
    """``work`` as a function that does it once and gives seconds a unit, the device's own work included."""

    def seconds() -> float:
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - begun) / units

    return seconds


def interleave(rows: Sequence[Row], runs: int) -> Times:
    """Times every row once a round, after a round that does not count; says on stderr where it is."""
    times: Times = {row.what: [] for row in rows}
    for run in range(runs + 1):
        print(f"round {run} of {runs}" if run else "warm-up", file=sys.stderr)
        for row in rows:
            seconds = row.seconds()
            if run:
                times[row.what].append(seconds)
    return times


def ratios(row: Row, times: Times) -> list[float]:
    """The row's time over that of what it is compared with, of each round; none if that was not timed."""
    return [own / other for own, other in zip(times[row.what], times.get(row.against or "", []))]


def said(seconds: float, unit: str) -> str:
    """Seconds a unit, in words."""
    number = f"{1e3 * seconds:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"
    return f"{number} a {unit}" if unit else number


def spread(values: Sequence[float]) -> tuple[str, str]:
    """The median and the range, in words; dashes if there are none."""
    if not values:
        return "–", "–"
    return f"{statistics.median(values):.2f}", f"{min(values):.2f} to {max(values):.2f}"


def machine(device: torch.device) -> dict[str, Any]:
    """Where, with what and when it was measured."""
    cpu = f"{platform.machine()} CPU ({torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores)"
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
    }


def write(file: Path, device: torch.device, rows: Sequence[Row], times: Times, **more: Any) -> None:
    """Writes the machine, every row's times in seconds a unit, and ``more``, as JSON."""
    data = [
        {"what": row.what, "unit": row.unit, "seconds": times[row.what], "against": row.against,
         "ratios": ratios(row, times), "floor": row.floor}
        for row in rows
    ]  # fmt: skip
    file.write_text(json.dumps({"machine": machine(device), **more, "rows": data}, indent=1))


def show(table: Table, device: torch.device, *notes: str) -> None:
    """Prints the table, what is to be said of it, and the machine."""
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    console.print(table)
    for note in (*notes, ", ".join(f"{key} {value}" for key, value in machine(device).items())):
        console.print(note, markup=False)
