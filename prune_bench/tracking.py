"""Weights & Biases as a mirror of the store, kept by a process of its own.

The sweep lays each finished cell into an outbox folder and goes on; the mirror process takes cells from there, writes
each as one whole W&B run, and moves it to a folder of what was sent. So trouble with W&B (no network, a wrong key, a
call that hangs, a kill) costs no result and holds up no sweep, and what was not sent can be sent later.
"""

from __future__ import annotations

import argparse
import json
import math
import netrc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prune_bench.config import Wandb
from prune_bench.errors import PruneBenchError


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
        self.mode = find_mode(settings)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, run: CellRun) -> None:
        """Lays a cell into the outbox, unless it was sent before, and returns at once.

        A disk that takes no more loses the mirror, never the sweep.
        """
        if self.mode == "disabled" or self._is_sent(run.key):
            return
        outbox = self._folder / "outbox"
        try:
            outbox.mkdir(parents=True, exist_ok=True)
            aside = outbox / f".{run.key}.part"
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
        if self._process is not None:
            (self._folder / "outbox" / ".end").touch()
            self._wait(self._process)
            self._process = None
        return self._left()

    def stop(self) -> None:
        """Ends the mirror process at once; what it has not sent waits in the outbox for the next sweep."""
        if self._process is not None:
            self._kill(self._process)
            self._process = None

    def _left(self) -> int:
        return len(list((self._folder / "outbox").glob("*.json")))

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

    def _is_sent(self, key: str) -> bool:
        modes = ("online",) if self.mode == "online" else ("online", "offline")
        return any((self._folder / "sent" / f"{key}.{mode}").exists() for mode in modes)

    def _start(self) -> subprocess.Popen[bytes]:
        (self._folder / "outbox" / ".end").unlink(missing_ok=True)
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
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
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
    (folder / "sent").mkdir(parents=True, exist_ok=True)
    given_up: set[Path] = set()
    while True:
        ending = (folder / "outbox" / ".end").exists()
        waiting = [file for file in sorted((folder / "outbox").glob("*.json")) if file not in given_up]
        for file in waiting:
            try:
                _write(json.loads(file.read_text()), args, folder)
                file.replace(folder / "sent" / f"{file.stem}.{args.mode}")
            except Exception as error:  # one run W&B will not take must not hold back the others
                print(f"{file.stem}: {type(error).__name__}: {error}", flush=True)
                given_up.add(file)
        if ending and not waiting:
            return
        time.sleep(0.1)


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _write(run: dict[str, Any], args: argparse.Namespace, folder: Path) -> None:
    import wandb

    seconds = float(args.patience)
    settings = wandb.Settings(
        console="off", silent=True, x_disable_stats=True, x_save_requirements=False,
        x_transaction_log_flush_interval=1, finish_timeout=seconds, init_timeout=min(seconds, 60.0),
    )  # fmt: skip
    with wandb.init(
        id=run["key"], name=run["name"], group=run["group"], tags=run["tags"], config=run["config"],
        project=args.project, entity=args.entity or None, dir=folder, mode=args.mode, reinit="create_new",
        resume="allow" if args.mode == "online" else None, settings=settings,
    ) as out:  # fmt: skip
        out.define_metric("epoch")
        for family in ("train/*", "validation/*"):
            out.define_metric(family, step_metric="epoch")
        # Steps are said: a run that was told in part takes no row twice.
        for step, row in enumerate(run["curves"]):
            out.log(row, step=step)
        if run["layers"]:
            columns = list(run["layers"][0])
            table = wandb.Table(columns=columns, data=[[row[c] for c in columns] for row in run["layers"]])
            out.log({"layers": table}, step=len(run["curves"]))
        out.summary.update({name: value for name, value in run["summary"].items() if _is_told(value)})


def _is_told(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


if __name__ == "__main__":
    main()
