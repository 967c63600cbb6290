"""Names for things: the pruners, models and data sets an experiment may ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from prune_bench.errors import ConfigError, PruneBenchError
from prune_bench.untrusted import printable

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Entry(Generic[T]):
    """One registered thing.

    Attributes:
        name: What an experiment file calls it.
        build: The class or function that makes it.
        options: Frozen keyword-only dataclass of its options; a docstring under each field documents it.
        source: Paper, package or file it comes from.
        summary: One line on what it is.
    """

    name: str
    build: T
    options: type
    source: str
    summary: str


class Registry(Mapping[str, Entry[T]]):
    """Entries by name, completed by the entry points of other installed packages.

    Args:
        kind: What an entry is called in messages (``method``).
        group: Entry-point group; loading an entry point imports the module whose :meth:`add` registers it.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self._group = group
        self._entries: dict[str, Entry[T]] = {}
        self._completed, self._broken = False, ""

    def add(self, name: str, *, options: type, source: str, summary: str) -> Callable[[T], T]:
        """Registers the decorated class or function under ``name``.

        Raises:
            ValueError: The name is taken.
        """

        def register(build: T) -> T:
            if name in self._entries:
                raise ValueError(f"the {self.kind} {name!r} is registered already")
            self._entries[name] = Entry(name=name, build=build, options=options, source=source, summary=summary)
            return build

        return register

    def find(self, name: object, key: str) -> Entry[T]:
        """The entry called ``name``.

        Raises:
            ConfigError: There is none; names ``key`` and the nearest spelling.
        """
        self._complete()
        if isinstance(name, str) and name in self._entries:
            return self._entries[name]
        raise ConfigError(key, name, f"is not a known {self.kind}", allowed=self)

    def _complete(self) -> None:
        if self._broken:  # a second look finds the module half imported, and would say something else
            raise PruneBenchError(self._broken)
        if self._completed:
            return
        self._completed = True
        for point in entry_points(group=self._group):
            try:
                point.load()
            except (Exception, SystemExit) as error:
                home = getattr(getattr(point, "dist", None), "name", "its package")
                what = f"the plug-in {getattr(point, 'value', point)} ({self._group}) of {home}"
                words = f"{type(error).__name__}: {error}"
                self._broken = printable(f"{what} cannot be used: {words}; mend it, or uninstall it")
                raise PruneBenchError(self._broken) from error

    def __getitem__(self, name: str) -> Entry[T]:
        return self.find(name, self.kind)

    def __contains__(self, name: object) -> bool:
        self._complete()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._complete()
        return iter(self._entries)

    def __len__(self) -> int:
        self._complete()
        return len(self._entries)
