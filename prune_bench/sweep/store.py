"""The store: every stage's outcome, whole or not at all, under the key of what produced it.

An artifact is one safetensors file: its tensors, and in the metadata its record (JSON) and a checksum over both. One
file is one atomic thing on every file system. Nothing here needs torch, so reports are quick to start.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

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
    """Artifacts in a folder, by kind and key.

    Args:
        folder: Made on first writing.
        say: Told of each damaged artifact.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = log.warning) -> None:
        self.folder, self._say = Path(folder), say

    def path(self, key: str) -> Path:
        """Where the artifact lies, or would; the key is ``kind-digits``."""
        kind, _, digits = key.partition("-")
        return self.folder / kind / digits[:2] / f"{digits}.safetensors"

    def write(self, key: str, artifact: Artifact) -> None:
        """Puts the artifact there at one stroke: written aside, synced to the disk, renamed.

        Raises:
            OSError: The disk is full, or the folder cannot be written; nothing half-written is left under the key.
        """
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{key}.{uuid.uuid4().hex}.part")
        try:
            with open(aside, "wb") as file:
                file.write(encode(artifact))
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        _sync_folder(path.parent)

    def read(self, key: str) -> Artifact | None:
        """The artifact, verified; None if it is not there or was damaged, in which case it is set aside."""
        path = self.path(key)
        try:
            return decode(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            aside = self.folder / "damaged" / f"{key}-{uuid.uuid4().hex[:8]}"
            aside.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, aside)
            self._say(f"{path} is damaged ({error}); set aside as {aside}, to be computed again")
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


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
