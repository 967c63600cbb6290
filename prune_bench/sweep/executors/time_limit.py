"""A limit on how long a stage may take."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class _Overrun(BaseException):
    """The time is over. Whoever catches ``Exception``, to try something else, does not catch this."""


@contextlib.contextmanager
def at_most(seconds: float | None) -> Iterator[None]:
    """Ends what runs inside it when its time is over; what hangs outside of Python is left to ``Executor.kill``.

    Args:
        seconds: None for no limit. Outside the main thread there is none either.

    Raises:
        TimeoutError: It took longer.
    """
    possible = hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()
    if seconds is None or not possible:
        yield
        return

    def overrun(*_: Any) -> None:
        raise _Overrun

    before = signal.signal(signal.SIGALRM, overrun)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _Overrun as error:
        words = f"it took longer than limits.stage_seconds allows ({seconds:g} s in all)"
        raise TimeoutError(words) from error
    finally:
        signal.signal(signal.SIGALRM, before)
