"""How a sweep is going, as plain data and as something to look at, here or in another terminal."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from prune_bench.sweep.runner import Progress
from prune_bench.sweep.stages import KINDS, Stage
from prune_bench.untrusted import printable, say

_PLAIN_EVERY = 10.0  # seconds between lines where there is no terminal
_NUMBERS = ("total", "done", "running", "failed")
_SHOWN = 8  # running stages named in a display


@dataclass(frozen=True, kw_only=True)
class Count:
    """Stages of one kind and method.

    Attributes:
        method: A method's label; empty for what all methods share.
        kind: What kind of stage.
        total: How many had to be computed.
        done: How many are.
        running: How many run, here or in another sweep.
        failed: How many failed or need one that did.
    """

    method: str
    kind: str
    total: int = 0
    done: int = 0
    running: int = 0
    failed: int = 0


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Where a sweep stands.

    Attributes:
        began: When it began, seconds since 1970; so is ``updated``.
        updated: When this was taken.
        cells: How many there are.
        cells_done: How many have a result.
        cells_failed: How many will have none.
        counts: Stages by method and kind.
        running: Label and beginning of what runs.
        failed: Label and reason of every stage that failed of itself.
        stages_per_minute: Finished so far.
        seconds_left: Expected, from what stages have cost so far; None while nothing is known.
    """

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)  # what is read back may have been written by anybody
    began: float
    updated: float
    cells: int
    cells_done: int
    cells_failed: int
    counts: tuple[Count, ...]
    running: tuple[tuple[str, float], ...]
    failed: tuple[tuple[str, str], ...]
    stages_per_minute: float
    seconds_left: float | None


def take_snapshot(progress: Progress, cells: int, began: float) -> Snapshot:
    """Where a run stands now.

    Args:
        progress: Of the runner.
        cells: How many cells the sweep has; those with nothing to do are done.
        began: When the run began.
    """
    todo, now = progress.todo, time.time()
    numbers: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for key, stage in todo.items():
        count = numbers[stage.method, stage.kind]
        count["total"] += 1
        count["done"] += key in progress.done
        count["failed"] += key in progress.failed
        count["running"] += key in progress.running or key in progress.elsewhere
    results = [count for (_, kind), count in numbers.items() if kind == "result"]
    missing, failed = (sum(count[name] for count in results) for name in ("total", "failed"))
    causes = [(k, reason) for k, reason in progress.failed.items() if not reason.startswith("needs ")]
    return Snapshot(
        began=began, updated=now, cells=cells, cells_failed=failed,
        cells_done=cells - missing + sum(count["done"] for count in results),
        counts=tuple(Count(method=m, kind=k, **count) for (m, k), count in numbers.items()),
        running=tuple((f"{todo[key].kind} {todo[key].label}", since) for key, since in progress.running.items()),
        failed=tuple((f"{todo[key].kind} {todo[key].label}", reason) for key, reason in causes),
        stages_per_minute=60 * len(progress.done) / max(now - began, 1e-9),
        seconds_left=seconds_left(progress),
    )  # fmt: skip


def seconds_left(progress: Progress) -> float | None:
    """What is left, in seconds on the run's slots, at the measured cost of stages like those that are left."""
    left = [s for key, s in progress.todo.items() if key not in progress.done and key not in progress.failed]
    seconds = estimate(left, measured_rates(progress.todo, progress.done))
    if seconds is None:
        return None
    spent = sum(time.time() - since for since in progress.running.values()) / max(len(progress.running), 1)
    return max(seconds / progress.slots - spent * (len(progress.running) > 0), 0.0)


def measured_rates(stages: Mapping[str, Stage], seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds a dense epoch, by ``kind method`` and, under ``""``, over all."""
    cost: dict[str, float] = defaultdict(float)
    spent: dict[str, float] = defaultdict(float)
    for key, took in seconds.items():
        stage = stages[key]
        for group in (f"{stage.kind} {stage.method}", "") if took > 0 and stage.cost > 0 else ():
            cost[group] += stage.cost
            spent[group] += took
    return {group: spent[group] / cost[group] for group in cost}


def estimate(stages: list[Stage], rates: Mapping[str, float]) -> float | None:
    """Seconds of these stages one after another; None if nothing was ever measured."""
    if "" not in rates:
        return None
    return sum(stage.cost * rates.get(f"{stage.kind} {stage.method}", rates[""]) for stage in stages)


def render(now: Snapshot) -> RenderableType:
    """A snapshot to look at: cells, what runs, and a table of stages by method and kind."""
    bar = Table.grid(padding=(0, 2))
    bar.add_row("cells", ProgressBar(now.cells, now.cells_done, width=24), headline(now))
    table = Table(box=None, padding=(0, 2), header_style="dim")
    kinds = [kind for kind in KINDS if any(count.kind == kind for count in now.counts)]
    for column in ("method", *kinds):
        table.add_column(column, justify="left" if column == "method" else "right")
    by = {(count.method, count.kind): count for count in now.counts}
    for method in dict.fromkeys(count.method for count in now.counts):
        table.add_row(Text(printable(method) or "(shared)"), *(_fraction(by.get((method, kind))) for kind in kinds))
    running = [
        Text(printable(f"  {label}, {clock(now.updated - since)}"), style="dim") for label, since in now.running
    ]
    more = [Text(f"  and {len(running) - _SHOWN} more", style="dim")] if len(running) > _SHOWN else []
    failed = [Text(printable(f"failed: {label}: {reason}"), style="red") for label, reason in now.failed]
    return Group(bar, table, *running[:_SHOWN], *more, *failed)


def headline(now: Snapshot) -> str:
    """A snapshot in a line."""
    stages, done, running, failed = (sum(getattr(c, n) for c in now.counts) for n in _NUMBERS)
    left = "time left unknown yet" if now.seconds_left is None else f"{clock(now.seconds_left)} left"
    words = [f"{now.cells_done}/{now.cells} cells", f"{done}/{stages} stages", f"{running} running"]
    words += [f"{failed} failed"] if failed else []
    return ", ".join([*words, f"{now.stages_per_minute:.0f} stages/min", left])


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = int(max(seconds, 0))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _fraction(count: Count | None) -> Text:
    if count is None:
        return Text("")
    words = f"{count.done}/{count.total}" + (f" ({count.failed} failed)" if count.failed else "")
    style = "red" if count.failed else "green" if count.done == count.total else "bold" if count.running else ""
    return Text(words, style=style)


class Display:
    """Shows snapshots: live in a terminal, as plain lines elsewhere; a context manager.

    Args:
        console: Where.
    """

    def __init__(self, console: Console) -> None:
        self._console, self._said = console, time.monotonic()
        self._live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def cell_done(self, cell: str, record: dict[str, Any]) -> None:
        """A cell has its result: a line of its own in a terminal."""
        if self._live is not None:
            accuracy = record["metrics"].get("test/accuracy")
            words = record["reason"] or ("" if accuracy is None else f"{100 * accuracy:.1f} %")
            say(self._console, f"{cell}: {words}", "dim")

    def show(self, now: Snapshot) -> None:
        """Shows where the run stands."""
        if self._live is not None:
            self._live.update(render(now), refresh=True)
        elif time.monotonic() - self._said > _PLAIN_EVERY:
            self._said = time.monotonic()
            say(self._console, headline(now))
