"""Weights & Biases: the mode, the key, and whether the server answers."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version

from prune_bench.doctor.lines import Line, Subject
from prune_bench.tracking import find_mode, has_key

_PATIENCE = 4.0  # seconds


def look(subject: Subject) -> Iterator[Line]:
    """One line; the network is asked only when the mode is online."""
    settings, name = subject.experiment.wandb, f"W&B {version('wandb')}"
    mode = find_mode(settings)
    if mode == "disabled":
        yield Line(name="W&B", verdict="skipped", words=f"{name} is disabled")
    elif mode == "offline":
        key = "there is an API key" if has_key() else "no API key here"
        yield Line(
            name="W&B", verdict="pass", words=f"{name} is offline ({key}); `prune-bench sync` sends a run later"
        )
    elif not has_key():
        words = f"{name} is online and has no API key: run `wandb login`, set WANDB_API_KEY, or wandb.mode=offline"
        yield Line(name="W&B", verdict="mend", words=words)
    else:
        yield reached(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"), name)


def reached(url: str, name: str) -> Line:
    """Whether a server answers, whatever it says."""
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE):
            pass
    except urllib.error.HTTPError:
        pass
    except (OSError, ValueError) as error:
        words = f"{url} does not answer ({error}). Cells wait in the run's folder: wandb.mode=offline, and sync later"
        return Line(name="W&B", verdict="mend", words=words)
    return Line(name="W&B", verdict="pass", words=f"{name} is online, has a key, and {url} answers")
