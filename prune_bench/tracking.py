"""Weights & Biases as a mirror of the store, kept by a process of its own.

The sweep lays each finished cell into an outbox folder and goes on; the mirror process takes cells from there, writes
each as one whole W&B run, and moves it to a folder of what was sent. So trouble with W&B (no network, a wrong key, a
call that hangs, a kill) costs no result and holds up no sweep, and what was not sent can be sent later.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import netrc
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prune_bench.config import Wandb
from prune_bench.errors import PruneBenchError
from prune_bench.sender import is_taken, sent_mark

_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")
"""Where `wandb login` has kept the key of W&B's own server, in older and in newer versions."""
_LONGEST_TAG = 64
_SYNC_SENDERS = 4
_SYNC_ROUNDS = 3
_REFUSED = re.compile(r"[0-9a-f]{32}: ")  # as the sender writes it


@dataclass(frozen=True, kw_only=True)
class CellRun:
    """A cell as a W&B run.

    Attributes:
        key: The run's id.
        name: What people call it.
        group: The experiment.
        tags: Method, model, data and variant; a long one is cut, and ends in a mark that tells it from others.
        config: Flat.
        curves: Rows, each with ``epoch`` and metrics.
        summary: Metric vocabulary to value.
        layers: Rows of the table ``layers``.
        job_type: ``cell``, or ``comparison`` for what is told of many cells.
    """

    key: str
    name: str
    group: str
    tags: tuple[str, ...]
    config: dict[str, Any]
    curves: list[dict[str, float]]
    summary: dict[str, Any]
    layers: list[dict[str, Any]]
    job_type: str = "cell"

    def __post_init__(self) -> None:
        """Cuts tags to what W&B takes: a longer one would keep the whole run away."""
        object.__setattr__(self, "tags", tuple(_short(tag) for tag in self.tags if tag))


def _short(tag: str) -> str:
    mark = f"~{hashlib.sha256(tag.encode()).hexdigest()[:8]}"
    return tag if len(tag) <= _LONGEST_TAG else tag[: _LONGEST_TAG - len(mark)] + mark


class Mirror:
    """Sends cells to W&B in the background; a context manager.

    Args:
        settings: Mode, project and patience.
        folder: The sweep's folder; W&B's files go under its ``wandb``.
        senders: Processes that send side by side.
    """

    def __init__(self, settings: Wandb, folder: Path, senders: int = 1) -> None:
        self._settings, self._folder, self._senders = settings, Path(folder).resolve() / "wandb", senders
        # What is written under a W&B agent all goes into the one run that the agent has named.
        self.mode = "disabled" if os.environ.get("WANDB_SWEEP_ID") else find_mode(settings)
        self._processes: list[subprocess.Popen[bytes]] = []

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
            if len(self._processes) < self._senders:
                self._processes.append(self._start())
        except OSError:
            self.mode = "disabled"

    def close(self, watch: Callable[[int], None] = lambda left: None) -> int:
        """Waits for the outbox to empty, at most the settings' patience.

        Args:
            watch: Told again and again how many are left.

        Returns:
            How many cells are left unsent; ``prune-bench sync`` sends them.
        """
        if not self._processes and self.mode != "disabled" and self._left():
            self._processes.append(self._start())  # an earlier sweep was stopped before these were sent
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        self._wait(watch)
        self._processes.clear()
        return self._left()

    def last_trouble(self) -> str:
        """What kept the last refused cell from W&B, in a line; empty if nothing is known."""
        try:
            lines = (self._folder / "mirror.log").read_text(errors="replace").splitlines()
        except OSError:
            return ""
        said = [line.partition(": ")[2] for line in lines if _REFUSED.match(line)]
        return said[-1][:300] if said else ""

    def stop(self) -> None:
        """Ends the mirror process at once; what it has not sent waits in the outbox for the next sweep."""
        for process in self._processes:
            self._kill(process)
        self._processes.clear()

    def _left(self) -> int:
        return sum(not is_taken(file) for file in (self._folder / "outbox").glob("*.json*"))

    @staticmethod
    def _kill(process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _wait(self, watch: Callable[[int], None]) -> None:
        """Patience starts anew with every cell that goes out: a long queue is no hang."""
        left, last = -1, time.monotonic()
        while any(process.poll() is None for process in self._processes):
            now = self._left()
            watch(now)
            if now != left:
                left, last = now, time.monotonic()
            if time.monotonic() - last > self._settings.patience:
                self.stop()
            time.sleep(0.05)

    def _is_known(self, key: str) -> bool:
        """Whether it was sent, or another sweep's mirror is about to send it."""
        settings = self._settings
        marks = [sent_mark(mode, settings.entity, settings.project) for mode in {"online", self.mode}]
        sent = any((self._folder / "sent" / f"{key}.{mark}").exists() for mark in marks)
        return sent or any((self._folder / "outbox").glob(f"{key}.json*"))

    def _start(self) -> subprocess.Popen[bytes]:
        words = [
            sys.executable, "-m", "prune_bench.sender", str(self._folder), self.mode, self._settings.project,
            "--entity", self._settings.entity or "", "--patience", str(self._settings.patience),
        ]  # fmt: skip
        # WANDB_MODE="" is an error to W&B, and a set one would overrule what was decided here; a service of this
        # process's own would be asked to do the sender's work, in this process's mode, and ends with it.
        left_out = ("WANDB_MODE", "WANDB_SERVICE")
        environment = {name: value for name, value in os.environ.items() if name not in left_out}
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
    """Whether W&B would find an API key, in the environment or in netrc.

    wandb is not imported here; where netrc has no entry for a server known here, wandb itself is asked, in a process
    of its own.
    """
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        found = netrc.netrc(_netrc_path())
    except (OSError, ValueError, netrc.NetrcParseError):
        return False
    if not found.hosts:
        return False
    if base := os.environ.get("WANDB_BASE_URL"):
        where = urlsplit(base)
        hosts = [where.netloc, where.hostname or ""]
    else:
        hosts = list(_HOSTS)
    if any((found.authenticators(host) or ("", "", ""))[2] for host in hosts):
        return True
    return not base and _wandb_knows_a_key()


def _netrc_path() -> Path:
    """Where W&B looks."""
    if chosen := os.environ.get("NETRC"):
        return Path(chosen).expanduser()
    usual = [Path.home() / name for name in (".netrc", "_netrc")]
    return next((path for path in usual if path.exists()), usual[0])


def _wandb_knows_a_key() -> bool:
    """W&B's own answer, for a server that its settings name; it takes a second, and is asked last."""
    words = [sys.executable, "-c", "import sys, wandb; sys.exit(0 if wandb.Api().api_key else 1)"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL, timeout=30).returncode == 0
    return False


def sync(
    runs: Sequence[CellRun], settings: Wandb, folder: Path, *, again: bool = False,
    watch: Callable[[int, int], None] = lambda left, total: None, pause: float = 5.0,
) -> int:  # fmt: skip
    """Makes W&B hold these cells online, rebuilt from the store; those sent online before are left alone.

    A run that an interrupted sync or sweep left half-told is completed. What cannot be sent is tried anew, twice.

    Args:
        runs: What W&B shall hold.
        settings: Project and patience; the mode is online.
        folder: The sweep's folder.
        again: Send all, whatever was sent before.
        watch: Told how many are left, and of how many.
        pause: Seconds before the second try; twice that before the third.

    Returns:
        How many could not be sent.

    Raises:
        PruneBenchError: There is no API key.
    """
    if not has_key():
        raise PruneBenchError("W&B knows no API key here: run `wandb login`, or set WANDB_API_KEY, and sync again")
    online = Wandb(mode="online", project=settings.project, entity=settings.entity, patience=settings.patience)
    left = 0
    if again:
        for run in runs:
            mark = sent_mark("online", settings.entity, settings.project)
            (Path(folder).resolve() / "wandb" / "sent" / f"{run.key}.{mark}").unlink(missing_ok=True)
    for round in range(_SYNC_ROUNDS):
        time.sleep(pause * round)
        mirror = Mirror(online, folder, _SYNC_SENDERS)
        try:
            for run in runs:
                mirror.send(run)
            left = mirror.close(lambda left: watch(left, len(runs)))
        except BaseException:
            mirror.stop()
            raise
        if not left:
            break
    return left
