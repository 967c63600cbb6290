"""A sweep in a process of its own that can be killed, and an account of what was computed; for the fault tests."""

import contextlib
import io
import json
import multiprocessing
import os
import re
import signal
import sys
import time
from pathlib import Path

import psutil
from rich.console import Console

from prune_bench.config import make_experiment
from prune_bench.sweep import sweep
from prune_bench.sweep.store import Store

# Importing torch, and what the report is made with, takes seconds; children forked from a server that has them begin
# in milliseconds. Without, a child that has nothing left to do lives longer than the tests let it.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [__name__, "prune_bench.sweep.compute", "lightning.pytorch", "prune_bench.report.build", "pyarrow.parquet"]
)

CRASHED = 99  # the exit code
_OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir")

EXPERIMENT = {
    "name": "faults",
    "model": {"name": "lenet300_100"},
    "data": {"name": "synthetic", "samples": 64, "test_samples": 32, "image_size": 4, "channels": 1, "classes": 3},
    "train": {"epochs": 2, "batch_size": 16, "milestones": [1], "rewind_epoch": 1, "pack": 2},
    "methods": {"snip": {}, "ltr": {}, "cts": {"steps": 4, "batch_size": 16}},
    "densities": [0.6, 0.4],
    "variants": ["original", "layer_shuffle"],
    "prune_at": ["init", "rewind"],
    "seeds": [0, 1],
    "executor": "inline",
    "wandb": {"mode": "disabled"},
}


def start(folder, *words):
    """A sweep in a child process."""
    child = FORKS.Process(target=_sweep, args=(str(folder), words))
    child.start()
    return child


def start_and_crash(folder, crashes, *words):
    """A sweep in a child process that dies, without any clean-up, before a file operation that none died before yet.

    Args:
        folder: The run's. Operations below it count: a file opened to be written, a rename, a removal, a new folder.
        crashes: A file that holds the operations that a child has died before.
        words: Laid over the experiment.
    """
    child = FORKS.Process(target=_sweep_and_crash, args=(str(folder), str(crashes), words))
    child.start()
    return child


def kill(child):
    """SIGKILL; whether it was still running."""
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    return child.exitcode == -signal.SIGKILL


def children_of(pid):
    """Worker processes of a sweep."""
    found = []
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.Error):  # it has just ended
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child.pid)
    return found


def _sweep_and_crash(folder, crashes, words):
    known = set(Path(crashes).read_text().splitlines()) if Path(crashes).exists() else set()

    def die(event, args):
        if event not in _OPERATIONS or not str(args[0]).startswith(f"{folder}/"):
            return
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR):
            return
        # Names hold keys, processes' ids and generations; an operation is one whatever these are.
        name = re.sub(
            r"[0-9a-f]{32}|(?<=/)[0-9a-f]{2}(?=/|$)|\d{3,}|\.\d+$",
            "*",
            str(args[1 if event == "os.rename" else 0])[len(folder) :],
        )
        if (operation := f"{event} {name}") not in known:
            known.add(operation)
            with open(crashes, "a") as account:
                account.write(f"{operation}\n")
            os._exit(CRASHED)

    sys.addaudithook(die)
    _sweep(folder, words)


def _sweep(folder, words):
    real = Store.write

    def counted(store, key, artifact):
        real(store, key, artifact)
        with open(f"{folder}.finished", "a") as account:
            account.write(f"{key}\n")

    Store.write = counted
    experiment = make_experiment(EXPERIMENT, [f"output={folder}", *words])
    os._exit(sweep.run_sweep(experiment, Console(file=io.StringIO(), width=140)))


def finished(folder):
    """Keys of artifacts in the order they were written, by whichever process."""
    account = Path(f"{folder}.finished")
    return account.read_text().split() if account.exists() else []


def content(folder):
    """Every artifact of a run, without what a clock or a memory meter says."""
    store = Store(Path(folder) / "store")
    found = {}
    for path in sorted((Path(folder) / "store").rglob("*.safetensors")):
        if path.name.startswith(".") or path.parent.name == "damaged":
            continue
        key = f"{path.parent.parent.name}-{path.stem}"
        artifact = store.read(key)
        assert artifact is not None, f"{key} is damaged"
        record = json.dumps(_timeless(artifact.record), sort_keys=True)
        found[key] = (record, {name: array.tobytes() for name, array in artifact.tensors.items()})
    return found


def _timeless(record):
    timed = ("seconds", "search/seconds", "train/seconds", "memory/peak_bytes")
    return {
        key: _timeless(value) if isinstance(value, dict) else value
        for key, value in record.items()
        if key not in timed
    }


def wait_for(child, seconds):
    """Whether a child ends within that time."""
    child.join(seconds)
    return child.exitcode is not None


def now():
    """Seconds on a clock that is never set back."""
    return time.monotonic()
