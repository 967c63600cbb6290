"""The doctor's lines on a terminal, in a file, or as data."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prune_bench.doctor.lines import Line

_STYLES = {"pass": "green", "figure": "cyan", "mend": "bold red", "skipped": "dim"}
_WIDTH = 80
_NAME = 11


class Show:
    """Prints lines as they come, and keeps them.

    Args:
        console: Where.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._width = min(console.width, 100) if console.is_terminal else _WIDTH
        self.sections: list[dict[str, Any]] = []

    def section(self, title: str) -> None:
        """Begins a group of lines."""
        self.sections.append({"title": title, "lines": []})
        self._console.print(Text(f"\n{title}", style="bold"))

    def line(self, line: Line) -> None:
        """A line of the group that was begun last."""
        self.sections[-1]["lines"].append(asdict(line))
        row = Table.grid(padding=(0, 1))
        row.width = self._width
        row.add_column(width=7)
        row.add_column(width=_NAME)
        row.add_column(ratio=1, overflow="fold")
        row.add_column(width=7, justify="right")
        seconds = f"{line.seconds:.1f} s" if line.seconds >= 0.05 else ""
        style = _STYLES[line.verdict]
        row.add_row(Text(line.verdict, style), line.name, Text(line.words), Text(seconds, "dim"))
        self._console.print(row)

    @property
    def mends(self) -> int:
        """Lines that ask for something to be done."""
        return sum(line["verdict"] == "mend" for section in self.sections for line in section["lines"])

    def end(self, seconds: float) -> None:
        """The last words."""
        words = {0: "nothing to mend", 1: "1 thing to mend"}.get(self.mends, f"{self.mends} things to mend")
        style = "bold red" if self.mends else "bold green"
        self._console.print(Text(f"\n{words}", style=style).append(f"; looked for {seconds:.0f} s", style="not bold"))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        aside.write_text(json.dumps(content, indent=1))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
