"""A log of every stage, in the store beside its artifact."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TextIO

from prune_bench.files import Files, LocalFiles


def log_name(key: str) -> str:
    """A log's name among the store's files; stages of a pack share that of its first lane."""
    return f"logs/{key}.log"


@contextlib.contextmanager
def stage_log(files: Files, key: str) -> Iterator[None]:
    """Writes what is logged and warned of meanwhile to the stage's log; a full disk loses the log only."""
    handler = logging.StreamHandler(_open(files, key))
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    ours = logging.getLogger("prune_bench")
    level, propagate = ours.level, ours.propagate
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False  # a terminal has its progress display
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.showwarning = lambda message, category, *_, **__: ours.warning(
                "%s: %s", category.__name__, message
            )
            yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(level)
        ours.propagate = propagate
        with contextlib.suppress(OSError):
            _close(files, key, handler.stream)


def _open(files: Files, key: str) -> TextIO:
    if not isinstance(files, LocalFiles):
        return io.StringIO()  # an object store takes whole files only
    path = files.folder / log_name(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    except OSError:
        return io.StringIO()


def _close(files: Files, key: str, stream: TextIO) -> None:
    if isinstance(stream, io.StringIO) and not isinstance(files, LocalFiles):
        files.write(log_name(key), stream.getvalue().encode(errors="backslashreplace"))
    stream.close()
