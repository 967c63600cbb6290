"""Weights & Biases as a mirror of the store, kept by a process of its own.

The sweep lays each finished cell into an outbox folder and goes on; the mirror process takes cells from there, writes
each as one whole W&B run, and moves it to a folder of what was sent. So trouble with W&B (no network, a wrong key, a
call that hangs, a kill) costs no result and holds up no sweep, and what was not sent can be sent later.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import netrc
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prune_bench.config import Wandb
from prune_bench.errors import PruneBenchError
from prune_bench.identity import identity, is_alive

_FOREIGN_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class CellRun:
    """A cell as a W&B run.

    Attributes:
        key: The run's id.
        name: What people call it.
        group: The experiment.
        tags: Method, model, data and variant.
        config: Flat.
        curves: Rows, each with ``epoch`` and metrics.
        summary: Metric vocabulary to value.
        layers: Rows of the table ``layers``.
    """

    key: str
    name: str
    group: str
    tags: tuple[str, ...]
    config: dict[str, Any]
    curves: list[dict[str, float]]
    summary: dict[str, Any]
    layers: list[dict[str, Any]]


class Mirror:
    """Sends cells to W&B in the background; a context manager.

    Args:
        settings: Mode, project and patience.
        folder: The sweep's folder; W&B's files go under its ``wandb``.
    """

    def __init__(self, settings: Wandb, folder: Path) -> None:
        self._settings, self._folder = settings, Path(folder).resolve() / "wandb"
        # What is written under a W&B agent all goes into the one run that the agent has named.
        self.mode = "disabled" if os.environ.get("WANDB_SWEEP_ID") else find_mode(settings)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, run: CellRun) -> None:
        """Lays a cell into the outbox, unless it was sent before, and returns at once.

        A disk that takes no more loses the mirror, never the sweep.
        """
        if self.mode == "disabled" or self._is_known(run.key):
            return
        outbox = self._folder / "outbox"
        try:
            outbox.mkdir(parents=True, exist_ok=True)
            aside = outbox / f".{run.key}.{os.getpid()}.part"
            aside.write_text(json.dumps(asdict(run)))
            aside.replace(outbox / f"{run.key}.json")
            if self._process is None:
                self._process = self._start()
        except OSError:
            self.mode = "disabled"

    def close(self) -> int:
        """Waits for the outbox to empty, at most the settings' patience.

        Returns:
            How many cells are left unsent; ``prune-bench sync`` sends them.
        """
        if self._process is None and self.mode != "disabled" and self._left():
            self._process = self._start()  # an earlier sweep was stopped before these were sent
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._wait(self._process)
            self._process = None
        return self._left()

    def stop(self) -> None:
        """Ends the mirror process at once; what it has not sent waits in the outbox for the next sweep."""
        if self._process is not None:
            self._kill(self._process)
            self._process = None

    def _left(self) -> int:
        return sum(not _is_taken(file) for file in (self._folder / "outbox").glob("*.json*"))

    @staticmethod
    def _kill(process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        """Patience starts anew with every cell that goes out: a long queue is no hang."""
        left, last = -1, time.monotonic()
        while process.poll() is None:
            now = self._left()
            if now != left:
                left, last = now, time.monotonic()
            if time.monotonic() - last > self._settings.patience:
                self._kill(process)
            time.sleep(0.05)

    def _is_known(self, key: str) -> bool:
        """Whether it was sent, or another sweep's mirror is about to send it."""
        modes = ("online",) if self.mode == "online" else ("online", "offline")
        sent = any((self._folder / "sent" / f"{key}.{mode}").exists() for mode in modes)
        return sent or any((self._folder / "outbox").glob(f"{key}.json*"))

    def _start(self) -> subprocess.Popen[bytes]:
        words = [
            sys.executable, "-m", "prune_bench.tracking", str(self._folder), self.mode, self._settings.project,
            "--entity", self._settings.entity or "", "--patience", str(self._settings.patience),
        ]  # fmt: skip
        # WANDB_MODE="" is an error to W&B, and a set one would overrule what was decided here.
        environment = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
        environment |= {name: str(self._folder) for name in ("WANDB_DIR", "WANDB_DATA_DIR")} | {
            "WANDB_SILENT": "true"
        }
        with open(self._folder / "mirror.log", "ab") as log:
            return subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
            )


def find_mode(settings: Wandb) -> str:
    """``online``, ``offline`` or ``disabled``; ``auto`` asks the environment and then whether there is a key."""
    if settings.mode != "auto":
        return settings.mode
    wanted = os.environ.get("WANDB_MODE", "")
    if wanted in ("online", "offline", "disabled"):
        return wanted
    return "online" if has_key() else "offline"


def has_key() -> bool:
    """Whether W&B would find an API key, in the environment or in netrc; wandb is not imported to find out."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0].split(":")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def sync(runs: Iterable[CellRun], settings: Wandb, folder: Path) -> int:
    """Makes W&B hold these cells online, rebuilt from the store; those sent online before are left alone.

    Returns:
        How many could not be sent.

    Raises:
        PruneBenchError: There is no API key.
    """
    if not has_key():
        raise PruneBenchError("W&B knows no API key here: run `wandb login`, or set WANDB_API_KEY, and sync again")
    mirror = Mirror(Wandb(mode="online", project=settings.project, entity=settings.entity), folder)
    for run in runs:
        mirror.send(run)
    return mirror.close()


def main() -> None:
    """The mirror process: empties the outbox until it is told to end, or until the sweep is gone."""
    parser = argparse.ArgumentParser()
    for name in ("folder", "mode", "project", "--entity", "--patience"):
        parser.add_argument(name)
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent, folder = os.getppid(), Path(args.folder)
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    ending = threading.Event()
    threading.Thread(target=_await_end, args=(ending,), daemon=True).start()
    (folder / "sent").mkdir(parents=True, exist_ok=True)
    refused: set[str] = set()  # not tried again before the next sweep
    while True:
        over = ending.is_set()
        for file in sorted((folder / "outbox").glob("*.json*")):
            _send(file, refused, args, folder)
        if over:
            return
        time.sleep(0.1)


def _await_end(ending: threading.Event) -> None:
    sys.stdin.read()
    ending.set()


def _send(file: Path, refused: set[str], args: argparse.Namespace, folder: Path) -> None:
    """Sends a cell of the outbox, under a name that says who does, unless somebody else is at it."""
    key = file.name.partition(".")[0]
    if key in refused or _is_taken(file):
        return
    mine = file.with_name(f"{key}.json.{_mark()}")
    with contextlib.suppress(FileNotFoundError):  # another mirror was quicker
        file.rename(mine)
        os.utime(mine)
        try:
            _write(json.loads(mine.read_text()), args, folder)
            mine.replace(folder / "sent" / f"{key}.{args.mode}")
        except Exception as error:  # one run W&B will not take must not hold back the others
            print(f"{key}: {type(error).__name__}: {error}", flush=True)
            refused.add(key)
            mine.replace(file.with_name(f"{key}.json"))


def _mark() -> str:
    me = identity()
    return f"{zlib.crc32(me['host'].encode()):08x}_{me['pid']}_{me['began']}"


def _is_taken(file: Path) -> bool:
    """Whether a living mirror sends this cell now; one on another machine is given some minutes."""
    owner = file.name.partition(".json")[2].lstrip(".")
    if not owner:
        return False
    machine, pid, began = owner.split("_")
    if machine == _mark().split("_")[0]:
        return is_alive({"pid": int(pid), "began": float(began)})
    try:
        return time.time() - file.stat().st_mtime < _FOREIGN_SECONDS
    except FileNotFoundError:
        return True


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _write(run: dict[str, Any], args: argparse.Namespace, folder: Path) -> None:
    import wandb

    from prune_bench.wandb_cell import lean_settings, write_cell

    with wandb.init(
        id=run["key"], name=run["name"], group=run["group"], tags=run["tags"], config=run["config"],
        project=args.project, entity=args.entity or None, dir=folder, mode=args.mode, reinit="create_new",
        resume="allow" if args.mode == "online" else None, settings=lean_settings(float(args.patience)),
    ) as out:  # fmt: skip
        write_cell(out, run)


if __name__ == "__main__":
    main()
