"""The store: every stage's outcome, whole or not at all, under the key of what produced it.

An artifact is one safetensors file: its tensors, and in the metadata its record (JSON) and a checksum over both. The
record names the key, so that a sound file under another's name is no artifact. One file is one atomic thing on every
file system. Nothing here needs torch, so reports are quick to start.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from prune_bench.files import open_files
from prune_bench.sweep.stages import KINDS
from prune_bench.untrusted import parse_json

_FORMAT = "1"
_NAME = re.compile(rf"({'|'.join(KINDS)})/([0-9a-f]{{2}})/(\2[0-9a-f]{{30}})\.safetensors")
_KEY = "key"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Artifact:
    """What a stage leaves behind.

    Attributes:
        record: Anything JSON holds; NaN and infinities included.
        tensors: Arrays by name.
    """

    record: dict[str, Any]
    tensors: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)


class Store:
    """Artifacts by kind and key, and beside them what else a sweep leaves for the next: failures, logs, claims.

    Args:
        location: A folder, made on first writing, or an fsspec URL.
        say: Told of each damaged artifact.
    """

    def __init__(self, location: str | Path, say: Callable[[str], None] = log.warning) -> None:
        self.files, self._say = open_files(location), say
        self.location = self.files.location

    @staticmethod
    def name(key: str) -> str:
        """The artifact's name among the store's files; the key is ``kind-digits``."""
        kind, _, digits = key.partition("-")
        return f"{kind}/{digits[:2]}/{digits}.safetensors"

    def has(self, key: str) -> bool:
        """Whether there is an artifact; only :meth:`read` knows whether it is sound."""
        return self.files.exists(self.name(key))

    def write(self, key: str, artifact: Artifact) -> None:
        """Puts the artifact there at one stroke.

        Raises:
            OSError: The disk is full, or cannot be written; nothing half-written is left under the key.
        """
        self.files.write(self.name(key), encode(artifact, key))

    def read(self, key: str) -> Artifact | None:
        """The artifact, verified; None if it is not there or was damaged, in which case it is set aside.

        One without a key in its record was written by a version that left it out, and passes for what its name says.
        """
        name = self.name(key)
        try:
            data = self.files.read(name)
        except FileNotFoundError:
            return None
        try:
            return decode(data, key)
        except ValueError as error:
            aside = f"damaged/{key}-{uuid.uuid4().hex[:8]}"
            self._say(f"{name} in {self.location} is damaged ({error}); set aside as {aside}, to be computed again")
            with contextlib.suppress(OSError):  # a store that cannot be written is read all the same
                self.files.write(aside, data)
                if self.files.read(name) == data:  # or somebody has computed it again by now
                    self.files.remove(name)
            return None


def key_of(name: str) -> str | None:
    """The key of the artifact that has this name among a store's files; None if no artifact has."""
    found = _NAME.fullmatch(name)
    return found and f"{found[1]}-{found[3]}"


def encode(artifact: Artifact, key: str = "") -> bytes:
    """The artifact as a safetensors file's bytes.

    Args:
        artifact: What to write.
        key: Whose it is.
    """
    record = json.dumps(artifact.record | ({_KEY: key} if key else {}), sort_keys=True)
    tensors = {name: np.asarray(array, order="C") for name, array in artifact.tensors.items()}
    order = json.dumps(list(tensors))
    metadata = {"format": _FORMAT, "record": record, "order": order, "sha256": _digest(record, order, tensors)}
    return save_tensors(tensors, metadata)


def decode(data: bytes, key: str = "", *, named: bool = False) -> Artifact:
    """What :func:`encode` made of an artifact.

    Args:
        data: Its bytes.
        key: Whose it must be; empty for anybody's.
        named: Refuse one whose record names no key.

    Raises:
        ValueError: The bytes are not such a file, not as they were written, or another key's.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        metadata = parse_json(data[8 : 8 + length])["__metadata__"]
        tensors = load_tensors(data)
        record, order = metadata["record"], metadata["order"]
        if metadata["format"] != _FORMAT:
            raise ValueError(f"its format is {metadata['format']!r}, not {_FORMAT!r}")
        ordered = {name: tensors[name] for name in parse_json(order)}
        if len(ordered) != len(tensors) or metadata["sha256"] != _digest(record, order, ordered):
            raise ValueError("its checksum does not fit its content")
        said = parse_json(record)
        if not isinstance(said, dict):
            raise TypeError("its record is no mapping")
    except (SafetensorError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise ValueError(f"it cannot be read: {error}") from None
    own = said.pop(_KEY, "")
    if key and own != key and (own or named):
        raise ValueError(f"it is {own}'s" if own else "it names no key: export it again with this version")
    return Artifact(said, ordered)


def _digest(record: str, order: str, tensors: dict[str, np.ndarray[Any, Any]]) -> str:
    sha = hashlib.sha256(f"{record}\n{order}\n".encode())
    for name, array in tensors.items():
        sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sha.update(array.data if array.size else b"")
    return sha.hexdigest()
