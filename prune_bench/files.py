"""Where a store's bytes lie: a folder that every worker sees, or any URL that fsspec opens (``s3://bucket/run``).

Names are relative, with ``/`` between folders. What is written appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import fsspec
from fsspec.implementations.local import LocalFileSystem

from prune_bench.errors import ConfigError
from prune_bench.places import is_url
from prune_bench.untrusted import without_user

_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)
"""What a file system answers that cannot sync at all; a disk that is full or broken answers something else."""
_probed: set[str] = set()


class Files(Protocol):
    """Named bytes.

    Attributes:
        location: What :func:`open_files` makes an equal one of, in this process or another.
    """

    location: str

    def read(self, name: str) -> bytes:
        """The bytes of that name.

        Raises:
            FileNotFoundError: There are none.
        """

    def write(self, name: str, data: bytes) -> None:
        """Puts bytes there at one stroke, over what was there.

        Raises:
            OSError: The disk is full, or cannot be written; nothing half-written is left under the name.
        """

    def create(self, name: str, data: bytes) -> bool:
        """Puts bytes there if the name is free; of several who try at once one succeeds."""

    def touch(self, name: str) -> None:
        """Makes the bytes young again."""

    def age(self, name: str) -> float:
        """Seconds since the bytes were written or touched, by the clock of whoever keeps them.

        Raises:
            FileNotFoundError: They are gone.
        """

    def exists(self, name: str) -> bool:
        """Whether there are bytes of that name."""

    def size(self, name: str) -> int:
        """How many bytes."""

    def remove(self, name: str) -> None:
        """Removes them if they are there."""

    def names(self, folder: str = "") -> Iterator[str]:
        """Every name under a folder, at any depth; hidden ones, that are being written, left out."""


def open_files(location: str | Path) -> Files:
    """The files at a path or an fsspec URL.

    Raises:
        ConfigError: No such kind of URL is known, what opens it is not installed, or it makes a file twice that must
            be new, so that claims would exclude nobody.
    """
    if isinstance(location, Path) or not is_url(location):
        return LocalFiles(Path(location).expanduser())
    clean = without_user(location)
    try:
        system, path = fsspec.core.url_to_fs(location)
    except Exception as error:  # file systems raise what they like
        raise ConfigError("store", clean, f"cannot be opened: {without_user(str(error))}") from None
    if isinstance(system, LocalFileSystem):
        return LocalFiles(Path(path))
    files = RemoteFiles(system, path, clean)
    if location not in _probed:
        _probe(files)
        _probed.add(location)
    return files


def _probe(files: RemoteFiles) -> None:
    """Makes a file twice that must be new; a store that cannot be written is one that is only read."""
    name = f".probe.{uuid.uuid4().hex}"
    taken: list[object] = []
    try:
        taken = [files.create(name, b"") for _ in range(2)]
    except OSError:
        return
    except Exception as error:  # an argument it does not know
        taken = [type(error).__name__]
    finally:
        with contextlib.suppress(Exception):
            files.remove(name)
    if taken != [True, False]:
        raise ConfigError(
            "store", files.location, "makes a file twice that must be new, so that two sweeps would not see each "
            f"other ({taken}): it takes conditional writes, and fsspec 2024.12 or newer (here {fsspec.__version__})",
        )  # fmt: skip


class LocalFiles:
    """A folder, made on first writing."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.location = folder, str(folder)
        self._clock = f".clock.{uuid.uuid4().hex}"

    def read(self, name: str) -> bytes:
        """See :class:`Files`."""
        try:
            return self._path(name).read_bytes()
        except NotADirectoryError as error:  # the folder is below a plain file
            raise FileNotFoundError(*error.args) from None

    def write(self, name: str, data: bytes) -> None:
        """See :class:`Files`; written aside, synced to the disk, renamed."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        try:
            with open(aside, "wb") as file:
                file.write(data)
                file.flush()
                _sync(file.fileno())
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        _sync_folder(path.parent)

    def create(self, name: str, data: bytes) -> bool:
        """See :class:`Files`; opening a file that must be new is atomic, on network file systems too."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(path, "xb") as file, _or_removed(path):
                file.write(data)
                file.flush()
        except FileExistsError:
            return False
        return True

    def touch(self, name: str) -> None:
        """See :class:`Files`."""
        os.utime(self._path(name))

    def age(self, name: str) -> float:
        """See :class:`Files`; a file made now tells the file server's time, which may not be this machine's."""
        clock = self.folder / self._clock
        try:
            clock.touch()
            return clock.stat().st_mtime - self._path(name).stat().st_mtime
        finally:
            clock.unlink(missing_ok=True)

    def exists(self, name: str) -> bool:
        """See :class:`Files`."""
        return self._path(name).exists()

    def size(self, name: str) -> int:
        """See :class:`Files`."""
        return self._path(name).stat().st_size

    def remove(self, name: str) -> None:
        """See :class:`Files`."""
        self._path(name).unlink(missing_ok=True)

    def names(self, folder: str = "") -> Iterator[str]:
        """See :class:`Files`."""
        found = []
        for where, _, files in os.walk(self.folder / folder):  # gives nothing for what is not there
            found += [Path(where, name) for name in files if not name.startswith(".")]
        for path in sorted(found):
            if path.is_file():
                yield path.relative_to(self.folder).as_posix()

    def _path(self, name: str) -> Path:
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise ValueError(f"{name!r} lies outside of {self.location}")
        return self.folder / name


class RemoteFiles:
    """A prefix of an object store, or of any file system of fsspec's that writes a file at one stroke.

    Args:
        system: The file system.
        path: The prefix.
        location: Its URL.
    """

    def __init__(self, system: Any, path: str, location: str) -> None:
        self._system, self._root, self.location = system, path.rstrip("/"), location
        # Listings are cached by default, and other machines write here too.
        system.use_listings_cache = False

    def read(self, name: str) -> bytes:
        """See :class:`Files`."""
        return bytes(self._system.cat_file(self._path(name)))

    def write(self, name: str, data: bytes) -> None:
        """See :class:`Files`."""
        self._make_parent(name)
        self._system.pipe_file(self._path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """See :class:`Files`; object stores call this a conditional write."""
        self._make_parent(name)
        try:
            self._system.pipe_file(self._path(name), data, mode="create")
        except FileExistsError:
            return False
        return True

    def touch(self, name: str) -> None:
        """See :class:`Files`; a file beside is written: to write this one again could undo its removal."""
        if not self.exists(name):
            raise FileNotFoundError(name)
        self.write(_beat(name), b"")

    def age(self, name: str) -> float:
        """See :class:`Files`."""
        clock = f".clock.{uuid.uuid4().hex}"
        self.write(clock, b"now")
        try:
            now, then = (self._system.modified(self._path(n)) for n in (clock, name))
            with contextlib.suppress(FileNotFoundError):
                then = max(then, self._system.modified(self._path(_beat(name))))
        finally:
            self.remove(clock)
        return float((now - then).total_seconds())

    def exists(self, name: str) -> bool:
        """See :class:`Files`."""
        self._system.invalidate_cache()
        return bool(self._system.exists(self._path(name)))

    def size(self, name: str) -> int:
        """See :class:`Files`."""
        return int(self._system.size(self._path(name)))

    def remove(self, name: str) -> None:
        """See :class:`Files`."""
        for one in (name, _beat(name)):
            with contextlib.suppress(FileNotFoundError):
                self._system.rm_file(self._path(one))

    def names(self, folder: str = "") -> Iterator[str]:
        """See :class:`Files`."""
        self._system.invalidate_cache()
        root = self._system._strip_protocol(self._root)
        for path in sorted(self._system.find(self._path(folder) if folder else self._root)):
            name = str(PurePosixPath(path).relative_to(root))
            if not PurePosixPath(name).name.startswith("."):
                yield name

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _make_parent(self, name: str) -> None:
        self._system.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)


def _beat(name: str) -> str:
    folder, _, last = name.rpartition("/")
    return f"{folder}/.{last}.beat".lstrip("/")


@contextlib.contextmanager
def _or_removed(path: Path) -> Iterator[None]:
    """What could not be written whole is not left there in part."""
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)
