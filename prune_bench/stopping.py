"""Signals that ask a command to end: it ends as tidily as after Ctrl-C.

Schedulers and containers send SIGTERM, a closed terminal sends SIGHUP, and SLURM sends SIGUSR1 ahead of its limit
where a job asks for that (``--signal=USR1@60``).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

_NAMES = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
_received: list[int] = []


class Stopped(KeyboardInterrupt):
    """A signal has asked the process to end; whatever tidies up after Ctrl-C tidies up after it too."""


@contextlib.contextmanager
def stopping_tidily() -> Iterator[None]:
    """Inside it the first of these signals raises :class:`Stopped`; later ones do not disturb the tidying.

    A signal that was ignored before (``nohup``) stays ignored. Outside the main thread nothing changes.
    """
    _received.clear()
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in _numbers()}
    caught = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, before[number])


@contextlib.contextmanager
def handlers_put_back() -> Iterator[None]:
    """Undoes what a library installs inside it: Ray ends a process on SIGTERM, and fails at that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _numbers()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_signal() -> int | None:
    """The signal that asked the process to end, or None. After Ctrl-C it is None as well."""
    return _received[0] if _received else None


def die_on_sigterm() -> None:
    """Ends this process at once on SIGTERM, without Python's clean-up: for worker processes.

    Lightning's own handler would only note the signal, and end the training as if the method had.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))


def shield_resource_tracker() -> None:
    """Starts multiprocessing's resource tracker deaf to these signals, which a group of processes gets as a whole.

    It ends by itself with the last process that uses it. Ended before, it leaves a traceback on the terminal.
    """
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _numbers()} if here else {}
    try:
        resource_tracker.ensure_running()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: Any) -> None:
    _received.append(number)
    if len(_received) == 1:
        raise Stopped(signal.Signals(number).name)


def _numbers() -> list[int]:
    return [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
