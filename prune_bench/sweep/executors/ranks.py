"""Several processes that do one stage together, a device each (:mod:`prune_bench.parallel`)."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from prune_bench.errors import message_of
from prune_bench.files import LocalFiles
from prune_bench.stopping import die_on_sigterm
from prune_bench.sweep.executors.device_faults import DeviceFault, Fault, fault_in_words, fault_of
from prune_bench.sweep.logs import log_name, stage_log

log = logging.getLogger(__name__)
_GRACE = 3.0  # seconds in which the others may say what they know of an end
_POLL = 0.5  # seconds between looks at what the ranks have logged


_follows = False


class RankError(RuntimeError):
    """A rank raised.

    Args:
        kind: The exception's name.
        message: What it said.
        trace: Its traceback.
        fault: Whose fault it is, as the rank itself judged; by kind and message if it is left out.
    """

    def __init__(self, kind: str, message: str, trace: str, fault: Fault | None = None) -> None:
        super().__init__(message)
        self.kind, self.trace = kind, trace
        self.fault = fault or fault_in_words({kind}, message)


class RankDied(BrokenExecutor):
    """A rank ended and did not say why, as one does that is killed: the worker counts as dead."""


def launch(function: Callable[..., None], devices: Sequence[str], *args: Any) -> None:
    """Runs ``function(device, *args)`` in a fresh process a device, and returns when all have; none outlives it.

    Args:
        function: Importable; runs as a rank of a process group.
        devices: As torch names them, of one kind.
        args: Anything that can be pickled.

    Raises:
        RankError: It raised in a rank.
        RankDied: A rank was killed, or ended by itself.
    """
    with tempfile.TemporaryDirectory(prefix="prune-bench-ranks-", ignore_cleanup_errors=True) as folder:
        ranks = _Ranks(Path(folder), len(devices))
        try:
            ranks.start(function, tuple(devices), args)
            ranks.wait()
        finally:
            ranks.end()


def follow(parent: int) -> None:
    """Has this process leave Ctrl-C to its parent, die at once of SIGTERM, and go when the parent is gone.

    Args:
        parent: The parent's process id.
    """
    global _follows
    _follows = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_on_sigterm()
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def leaves_ctrl_c_to_parent() -> bool:
    """Whether :func:`follow` was called: a ``KeyboardInterrupt`` is then a stage's own, and nobody's wish to stop."""
    return _follows


def _watch(parent: int) -> None:
    known = multiprocessing.parent_process()
    ends = [] if known is None else [known.sentinel]
    # The sentinel tells at once, unless a child of the parent's holds the other end too.
    while os.getppid() == parent and not connection.wait(ends, timeout=1):
        if not ends:
            time.sleep(1)
    os._exit(1)


class _Ranks:
    """The processes of one launch, and what they leave in its folder: where they meet, logs, last words."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        self._processes: list[SpawnProcess] = []
        self._told = [0 for _ in range(count)]

    def start(self, function: Callable[..., None], devices: tuple[str, ...], args: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        for index in range(len(devices)):
            how = (os.getpid(), index, function, devices, str(self._folder), args)
            process = context.Process(target=_be_rank, args=how, name=f"rank {index}")
            process.start()
            self._processes.append(process)

    def wait(self) -> None:
        codes = self._until(lambda codes: any(codes) or None not in codes)
        if not any(codes):
            return
        codes = self._until(lambda codes: None not in codes, _GRACE)
        words = [_read(self._folder / f"{index}.json") for index in range(len(codes))]
        silent = [index for index, code in enumerate(codes) if code and words[index] is None]
        said = sorted((word for word in words if word is not None), key=lambda word: float(word["time"]))
        # The end of one breaks the others' exchanges: what they say of that is no cause, unless there is no other.
        causes = [word for word in said if not word["in_exchange"]]
        if silent and not causes:
            raise RankDied(f"rank {silent[0]} of {len(codes)} ended with exit code {codes[silent[0]]}")
        cause = (causes or said)[0]
        raise RankError(cause["kind"], cause["message"], cause["trace"], Fault[cause["fault"]])

    def end(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        self._retell()

    def _until(self, enough: Callable[[list[int | None]], bool], seconds: float = float("inf")) -> list[int | None]:
        """The exit codes once they are as wanted, or after that time; None of one that runs."""
        last = time.monotonic() + seconds
        while True:
            self._retell()
            codes = [process.exitcode for process in self._processes]
            if enough(codes) or time.monotonic() > last:
                return codes
            alive = [process.sentinel for process, code in zip(self._processes, codes) if code is None]
            connection.wait(alive, timeout=_POLL)

    def _retell(self) -> None:
        """What the ranks have logged since, into the log of the stage."""
        for index, told in enumerate(self._told):
            path = self._folder / log_name(str(index))
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            whole = [line for line in lines[told:] if line.endswith("\n")]
            self._told[index] += len(whole)
            for line in whole:
                log.info("rank %d: %s", index, line.rstrip())


def _be_rank(
    parent: int, index: int, function: Callable[..., None], devices: Sequence[str], folder: str, args: Any
) -> None:
    follow(parent)
    with stage_log(LocalFiles(Path(folder)), str(index)):
        if index > 0:  # all say the same of how it goes
            logging.getLogger("prune_bench").setLevel(logging.WARNING)
        try:
            _run(index, function, devices, folder, args)
        except BaseException as error:
            word = {
                "time": time.monotonic(),
                "kind": type(error).__name__,
                "message": message_of(error),
                "trace": traceback.format_exc(),
                "in_exchange": _in_exchange(error),
                "fault": fault_of(error).name,
            }
            _write(Path(folder) / f"{index}.json", word)
            # At once: the others wait for this rank, and what it has begun must not wait for them.
            os._exit(1)


def _run(index: int, function: Callable[..., None], devices: Sequence[str], folder: str, args: Any) -> None:
    import torch
    from torch import distributed

    from prune_bench.parallel import become_rank

    try:
        become_rank(index, len(devices), torch.device(devices[index]), f"file://{folder}/meeting")
    except Exception as error:
        if fault_of(error) is Fault.DEVICE:
            raise DeviceFault(f"{type(error).__name__}: {message_of(error)}", Fault.START) from error
        raise
    function(devices[index], *args)
    distributed.destroy_process_group()


def _in_exchange(error: BaseException) -> bool:
    """Whether it was raised within an exchange with the other ranks."""
    from torch import distributed

    inside = str(Path(distributed.__file__).parent)
    return any(frame.filename.startswith(inside) for frame in traceback.extract_tb(error.__traceback__))


def _write(path: Path, word: dict[str, Any]) -> None:
    aside = path.with_suffix(".aside")
    aside.write_text(json.dumps(word))
    aside.rename(path)


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None
