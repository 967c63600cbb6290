"""The store: every stage's outcome, whole or not at all, under the key of what produced it.

An artifact is one safetensors file: its tensors, and in the metadata its record (JSON) and a checksum over both. One
file is one atomic thing on every file system. Nothing here needs torch, so reports are quick to start.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
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

_FORMAT = "1"
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
        self.files.write(self.name(key), encode(artifact))

    def read(self, key: str) -> Artifact | None:
        """The artifact, verified; None if it is not there or was damaged, in which case it is set aside."""
        name = self.name(key)
        try:
            data = self.files.read(name)
        except FileNotFoundError:
            return None
        try:
            return decode(data)
        except ValueError as error:
            aside = f"damaged/{key}-{uuid.uuid4().hex[:8]}"
            self._say(f"{name} in {self.location} is damaged ({error}); set aside as {aside}, to be computed again")
            with contextlib.suppress(OSError):  # a store that cannot be written is read all the same
                self.files.write(aside, data)
                if self.files.read(name) == data:  # or somebody has computed it again by now
                    self.files.remove(name)
            return None


def encode(artifact: Artifact) -> bytes:
    """The artifact as a safetensors file's bytes."""
    record = json.dumps(artifact.record, sort_keys=True)
    tensors = {name: np.asarray(array, order="C") for name, array in artifact.tensors.items()}
    order = json.dumps(list(tensors))
    metadata = {"format": _FORMAT, "record": record, "order": order, "sha256": _digest(record, order, tensors)}
    return save_tensors(tensors, metadata)


def decode(data: bytes) -> Artifact:
    """What :func:`encode` made of an artifact.

    Raises:
        ValueError: The bytes are not such a file, or not as they were written.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        tensors = load_tensors(data)
        record, order = metadata["record"], metadata["order"]
        if metadata["format"] != _FORMAT:
            raise ValueError(f"its format is {metadata['format']!r}, not {_FORMAT!r}")
        ordered = {name: tensors[name] for name in json.loads(order)}
        if len(ordered) != len(tensors) or metadata["sha256"] != _digest(record, order, ordered):
            raise ValueError("its checksum does not fit its content")
        return Artifact(json.loads(record), ordered)
    except (SafetensorError, KeyError, TypeError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"it cannot be read: {error}") from None


def _digest(record: str, order: str, tensors: dict[str, np.ndarray[Any, Any]]) -> str:
    sha = hashlib.sha256(f"{record}\n{order}\n".encode())
    for name, array in tensors.items():
        sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sha.update(array.data if array.size else b"")
    return sha.hexdigest()
