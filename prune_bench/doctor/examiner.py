"""Checks in a process that may hang, crash or be killed, and is then made anew for the next one."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from typing import IO

from prune_bench.config import experiment_values
from prune_bench.doctor.lines import Check, Line, Subject

_GRACE = 5.0  # seconds; a process that waits for a dead disk does not end even when it is killed


class Examiner:
    """Makes checks, one after the other, in one process; a context manager.

    Args:
        environment: Variables that the process has beside this one's.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115

    def __enter__(self) -> Examiner:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._errors.close()

    def examine(self, check: Check, subject: Subject) -> Iterator[Line]:
        """The check's lines as they come; one that hangs or ends its process has a line that says so."""
        begun = time.monotonic()
        process = self._started()
        self._ask(process, check, subject)
        while True:
            try:
                answer = self._answers.get(timeout=max(0.0, begun + check.seconds - time.monotonic()))
            except queue.Empty:
                self._end()
                words = f"no answer within {check.seconds:g} s, stopped" + (f": {check.hint}" if check.hint else "")
                yield _mend(check, words, begun)
                return
            if answer is None:
                yield _mend(check, self._last_words(process), begun)
                self._end()
                return
            said = json.loads(answer)
            if isinstance(said, bool):
                if not said:
                    self._end()
                return
            yield Line(**said)

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._answers = queue.Queue()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "prune_bench.doctor.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env=self._environment,
                start_new_session=True,
            )
            threading.Thread(target=_listen, args=(self._process, self._answers), daemon=True).start()
        return self._process

    def _ask(self, process: subprocess.Popen[str], check: Check, subject: Subject) -> None:
        request = {
            "name": check.name,
            "function": check.function,
            "experiment": experiment_values(subject.experiment),
            "device": subject.device,
            "known": subject.known,
        }
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died: there will be no answer
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()

    def _last_words(self, process: subprocess.Popen[str]) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
        code = process.returncode
        how = f"exit code {code}" if code is None or code >= 0 else signal.Signals(-code).name
        self._errors.seek(0)
        said = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        return f"its process ended ({how})" + (f"; it said last: {said[-1]}" if said else "")

    def _end(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        self._process = None


def _listen(process: subprocess.Popen[str], answers: queue.Queue[str | None]) -> None:
    for line in process.stdout or ():
        answers.put(line)
    answers.put(None)


def _mend(check: Check, words: str, begun: float) -> Line:
    return Line(name=check.name, verdict="mend", words=words, seconds=time.monotonic() - begun)
