"""Claims: which sweep is computing a stage now, so that several on one store share the work.

A claim is a file that its owner touches while it lives. One that was not touched for a while is a dead owner's, and
the next generation of it may be made. Only the making of a file that must be new decides who owns a stage: that is
one atomic step on every store, where comparing and renaming are two.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from prune_bench.errors import PruneBenchError
from prune_bench.files import Files, LocalFiles
from prune_bench.identity import host, identity, is_alive
from prune_bench.untrusted import parse_json

BEAT = 5.0
"""Seconds between two touches."""
DEAD_AFTER = 30.0
"""Seconds without a touch after which an owner on another machine is taken for dead."""


class Claims:
    """A sweep's claims in a store; a context manager that lets go of them all at its end.

    Args:
        files: The store's.
        beat: Seconds between two touches.
        dead_after: Seconds without a touch after which another's claim is void.
    """

    def __init__(self, files: Files, *, beat: float = BEAT, dead_after: float = DEAD_AFTER) -> None:
        self._files, self._beat, self._dead_after = files, beat, dead_after
        self._mine: dict[str, int] = {}
        self._lock, self._over = threading.Lock(), threading.Event()
        self._me = json.dumps(identity()).encode()

    def __enter__(self) -> Claims:
        threading.Thread(target=self._touch_all, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self.release(list(self._mine))

    def take(self, keys: Iterable[str]) -> bool:
        """Claims all of these stages, or none if a sweep that is alive holds one of them.

        Raises:
            OSError: The store cannot be written.
        """
        taken: list[str] = []
        try:
            for key in keys:
                if not self._take(key):
                    self.release(taken)
                    return False
                taken.append(key)
        except OSError:
            self.release(taken)
            raise
        return True

    def release(self, keys: Iterable[str]) -> None:
        """Lets go of stages, done or not."""
        for key in keys:
            with self._lock:
                mine = self._mine.pop(key, None)
            if mine is not None:
                # A later generation is somebody else's, who took this sweep for dead.
                for generation in [g for g in self._generations(key) if g <= mine]:
                    self._files.remove(_name(key, generation))

    def _take(self, key: str) -> bool:
        if key in self._mine:
            return True
        held = self._generations(key)
        if held and not _is_dead(self._files, _name(key, held[-1]), self._dead_after):
            return False
        generation = held[-1] + 1 if held else 0
        created = self._files.create(_name(key, generation), self._me)
        if created:
            with self._lock:
                self._mine[key] = generation
        return created

    def _generations(self, key: str) -> list[int]:
        begin = f"claims/{key}."
        ends = [name.removeprefix(begin) for name in self._files.names("claims") if name.startswith(begin)]
        return sorted(int(end) for end in ends if end.isascii() and end.isdigit())

    def _touch_all(self) -> None:
        while not self._over.wait(self._beat):
            with self._lock:
                mine = dict(self._mine)
            for key, generation in mine.items():
                with contextlib.suppress(OSError):
                    self._files.touch(_name(key, generation))


@contextlib.contextmanager
def sweeping(files: Files) -> Iterator[None]:
    """Shows that a sweep is at work on a store, from its plan to its end; waits while the store is cleaned.

    A store that cannot be written is not claimed, and cannot be cleaned either. What refuses a sweep meanwhile leaves
    no new folder behind.
    """
    fresh = _missing_folders(files)
    try:
        with Claims(files) as claims:
            with contextlib.suppress(OSError):
                _forget_dead(files)
                claims.take([f"sweep-{uuid.uuid4().hex}"])
            while any(name.startswith("claims/clean-") for name in living_claims(files)):
                time.sleep(0.2)
            yield
    except BaseException:
        for folder in fresh:
            with contextlib.suppress(OSError):  # something is in it
                folder.rmdir()
        raise


@contextlib.contextmanager
def cleaning(files: Files) -> Iterator[None]:
    """Keeps sweeps from beginning while a store is cleaned.

    Raises:
        PruneBenchError: A sweep is at work on it, or it cannot be written.
    """
    mine = f"clean-{uuid.uuid4().hex}"
    with Claims(files) as claims:
        try:
            claims.take([mine])
        except OSError as error:
            raise PruneBenchError(f"{files.location} cannot be written: {error}") from None
        # Whoever claims first and looks then cannot be overlooked by one who does the same.
        if held := [name for name in living_claims(files) if mine not in name]:
            words = f"a sweep is at work on {files.location} ({len(held)} claims): wait for it, or stop it"
            raise PruneBenchError(words)
        yield


def living_claims(files: Files, dead_after: float = DEAD_AFTER) -> list[str]:
    """Names of the claims in a store whose owners are alive."""
    return [name for name in files.names("claims") if not _is_dead(files, name, dead_after)]


def _forget_dead(files: Files) -> None:
    """Removes what sweeps left that were killed: nobody else would, for no two have the same name."""
    for name in files.names("claims"):
        if name.startswith(("claims/sweep-", "claims/clean-")) and _is_dead(files, name, DEAD_AFTER):
            files.remove(name)


def _missing_folders(files: Files) -> list[Path]:
    """Folders that a first claim makes, innermost first."""
    if not isinstance(files, LocalFiles):
        return []
    claims = files.folder / "claims"
    return [folder for folder in (claims, *claims.parents) if not os.path.exists(folder)]


def _is_dead(files: Files, name: str, dead_after: float) -> bool:
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        owner = parse_json(files.read(name))
        if owner["host"] == host():
            return not is_alive(owner)
    # On another machine only the heart tells; whoever let go meanwhile is not dead but gone.
    with contextlib.suppress(FileNotFoundError):
        return files.age(name) > dead_after
    return False


def _name(key: str, generation: int) -> str:
    return f"claims/{key}.{generation}"
