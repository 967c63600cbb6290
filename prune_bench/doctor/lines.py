"""What a check is, what it looks at, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from prune_bench.config import Experiment

Verdict = Literal["pass", "figure", "mend", "skipped"]
"""All is well; a number to know; something to do; not looked at."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """An answer.

    Attributes:
        name: What was looked at, in a word or two.
        verdict: How it is.
        words: What was found; of a mend, what to do.
        seconds: Time it took.
        values: Plain values that later checks, and readers of the JSON, can use.
    """

    name: str
    verdict: Verdict
    words: str
    seconds: float = 0.0
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a check looks at.

    Attributes:
        experiment: What is to be run on this machine.
        device: Device as torch names it in the check's process.
        known: The values of all lines so far, of the machine and of this device.
    """

    experiment: Experiment
    device: str = "cpu"
    known: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Check:
    """Something to look at. It runs in a process of its own, so that it may hang or crash.

    Attributes:
        name: What its line is called when it gives none.
        function: ``module:name`` of a :data:`Look`.
        seconds: Longest time it may take.
        hint: What to do when it takes longer.
    """

    name: str
    function: str
    seconds: float = 60.0
    hint: str = ""


Look = Callable[[Subject], Iterator[Line]]
"""Gives lines as it finds them; what it raises becomes a line too."""
