"""Claims: which sweep is computing a stage now, so that several on one store share the work.

A claim is a file that its owner touches while it lives. One that was not touched for a while is a dead owner's, and
the next generation of it may be made. Only the making of a file that must be new decides who owns a stage: that is
one atomic step on every store, where comparing and renaming are two.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterable

from prune_bench.files import Files
from prune_bench.identity import host, identity, is_alive

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
        names = [name for name in self._files.names("claims") if name.startswith(f"claims/{key}.")]
        return sorted(int(name.rpartition(".")[2]) for name in names)

    def _touch_all(self) -> None:
        while not self._over.wait(self._beat):
            with self._lock:
                mine = dict(self._mine)
            for key, generation in mine.items():
                with contextlib.suppress(OSError):
                    self._files.touch(_name(key, generation))


def living_claims(files: Files, dead_after: float = DEAD_AFTER) -> list[str]:
    """Names of the claims in a store whose owners are alive."""
    return [name for name in files.names("claims") if not _is_dead(files, name, dead_after)]


def _is_dead(files: Files, name: str, dead_after: float) -> bool:
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        owner = json.loads(files.read(name))
        if owner["host"] == host():
            return not is_alive(owner)
    # On another machine only the heart tells; whoever let go meanwhile is not dead but gone.
    with contextlib.suppress(FileNotFoundError):
        return files.age(name) > dead_after
    return False


def _name(key: str, generation: int) -> str:
    return f"claims/{key}.{generation}"
