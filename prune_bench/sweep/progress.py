"""How a sweep is going: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from prune_bench.sweep.runner import Progress

_PLAIN_EVERY = 10.0  # seconds between lines where there is no terminal


class Display:
    """Shows cells and stages done, running, failed, and the time left; a context manager.

    Args:
        console: Where.
        cells: Cells to do.
    """

    def __init__(self, console: Console, cells: int) -> None:
        self._console, self._cells, self._done = console, cells, 0
        self._begun = self._said = time.monotonic()
        self._bars = Bars(
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[words]}"), console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._cell_bar = self._bars.add_task("cells", total=cells, words="")
        self._stage_bar = self._bars.add_task("stages", total=None, words="")

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def cell_done(self, cell: str, record: dict[str, Any]) -> None:
        """A cell has its result."""
        self._done += 1
        accuracy = record["metrics"].get("test/accuracy")
        words = record["reason"] or ("" if accuracy is None else f"{100 * accuracy:.1f} %")
        self._bars.update(self._cell_bar, completed=self._done, words=f"{cell}: {words}")

    def show(self, progress: Progress) -> None:
        """Shows where the run stands."""
        running = f"{len(progress.running)} running"
        failed = f", {len(progress.failed)} failed" if progress.failed else ""
        words = f"{running}{failed}, {self._left(progress)}"
        self._bars.update(self._stage_bar, total=progress.todo, completed=len(progress.done), words=words)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._said > _PLAIN_EVERY:
            self._said = now
            stages = f"{len(progress.done)}/{progress.todo} stages"
            self._console.print(f"{self._done}/{self._cells} cells, {stages}, {words}", highlight=False)

    def _left(self, progress: Progress) -> str:
        if not progress.cost_done:
            return "time left unknown yet"
        spent = time.monotonic() - self._begun
        seconds = int(spent / progress.cost_done * (progress.cost_todo - progress.cost_done))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d} left"
