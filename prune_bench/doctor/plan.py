"""What the experiment would do here: the words of its dry run."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich.console import Console

from prune_bench.doctor.lines import Line, Subject
from prune_bench.errors import PruneBenchError

_WIDTH = 10_000  # the doctor wraps


def look(subject: Subject) -> Iterator[Line]:
    """The lines that ``prune-bench sweep --dry-run`` prints."""
    from prune_bench.sweep.sweep import run_sweep

    if not subject.known.get("data_there"):
        yield Line(name="plan", verdict="skipped", words="it can be told when the data set is there")
        return
    console = Console(file=io.StringIO(), width=_WIDTH)
    try:
        run_sweep(subject.experiment, console, dry_run=True)
    except PruneBenchError as error:
        yield Line(name="plan", verdict="mend", words=str(error))
        return
    assert isinstance(console.file, io.StringIO)
    for text in console.file.getvalue().strip().splitlines():
        name, _, words = text.strip().partition(": ")
        yield Line(name=name, verdict="figure", words=words)
