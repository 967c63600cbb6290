"""Exported runs as files: one zip of artifacts, cells and experiment, read as what anybody may have made."""

from __future__ import annotations

import contextlib
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from prune_bench.config import Experiment, load_experiment, make_experiment, portable_values
from prune_bench.errors import PruneBenchError
from prune_bench.foreign import plain_values
from prune_bench.sweep.records import RESULT
from prune_bench.sweep.run_folder import RunCells, parse_cells, recipe_mark
from prune_bench.sweep.store import Artifact, Store, decode, encode, key_of
from prune_bench.untrusted import read_as

_CELLS, _EXPERIMENT, _STORE = "cells.json", "experiment.yaml", "store/"
_GROWTH, _ROOM = 20, 8_000_000
"""What is packed may hold 20 times the archive's bytes, and 8 MB more: masks shrink, most else does not."""
_FAULTS = (
    OSError, EOFError, KeyError, TypeError, ValueError, NotImplementedError, RuntimeError, MemoryError, OverflowError,
    zipfile.BadZipFile, zlib.error, PruneBenchError,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Archive:
    """An exported run that was looked through.

    Attributes:
        path: The zip file.
        experiment: What made it.
        cells: Its cells, all of the experiment's recipe.
    """

    path: Path
    experiment: Experiment
    cells: RunCells

    def artifacts(self) -> Iterator[tuple[str, bytes]]:
        """Keys and bytes, every one verified."""
        with zipfile.ZipFile(self.path) as bundle:
            yield from _artifacts(bundle)


def write_archive(folder: Path, path: Path, cells: RunCells, artifacts: Iterable[tuple[str, Artifact]]) -> int:
    """Writes a run into a zip file, whole or not at all.

    Args:
        folder: The run's.
        path: Of the zip file.
        cells: Of the run.
        artifacts: By key.

    Returns:
        How many artifacts it holds.

    Raises:
        PruneBenchError: The run's experiment cannot be read, or the file not be written.
    """
    values = portable_values(load_experiment(folder / _EXPERIMENT))
    aside, count = path.with_name(f".{zlib.crc32(path.name.encode(errors='replace')):08x}.part"), 0
    try:
        # Artifacts are dense numbers, which do not compress.
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as bundle:
            bundle.writestr(_CELLS, json.dumps(asdict(cells) | {"store": "", "plan": ""}))
            bundle.writestr(_EXPERIMENT, OmegaConf.to_yaml(OmegaConf.create(values)))
            for key, artifact in artifacts:
                bundle.writestr(_STORE + Store.name(key), encode(artifact, key))
                count += 1
        aside.replace(path)
    except OSError as error:
        raise PruneBenchError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
    return count


def open_archive(path: Path) -> Archive:
    """An exported run, all of it looked through and found sound.

    Raises:
        PruneBenchError: It is none, or something in it is damaged, or not what its name says.
    """
    try:
        with zipfile.ZipFile(path) as bundle:
            _check_names(bundle, path.stat().st_size)
            cells = parse_cells(bundle.read(_CELLS))
            values = plain_values(bundle.read(_EXPERIMENT), _EXPERIMENT)
            experiment = make_experiment(portable_values(make_experiment(values)))
            results = {row["key"]: row["cell"] for row in (*cells.rows, *cells.earlier)}
            for key, data in _artifacts(bundle):
                _check_result(key, data, results)
    except _FAULTS as error:
        words = str(error) or type(error).__name__
        raise PruneBenchError(f"{path} is no exported run: {words}") from None
    recipe = recipe_mark(portable_values(experiment))
    rows = [{"recipe": recipe, **row} for row in cells.rows]
    return Archive(path=path, experiment=experiment, cells=RunCells(store="", rows=rows, earlier=cells.earlier))


def _check_names(bundle: zipfile.ZipFile, size: int) -> None:
    infos = bundle.infolist()
    names = [info.filename for info in infos]
    if len(set(names)) < len(names):
        raise ValueError("a name stands in it twice")
    for info in infos:
        name = info.filename
        if name not in (_CELLS, _EXPERIMENT) and _key(name) is None:
            raise ValueError(f"{name!r} is no name of an artifact")
        if info.flag_bits & 1:
            raise ValueError(f"{name} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name} is compressed by method {info.compress_type}, not 0 or 8")
        if name == _CELLS and info.file_size > size + _ROOM:
            raise ValueError(f"{name} has {info.file_size:,} bytes, which is more than all else")
    if (whole := sum(info.file_size for info in infos)) > _GROWTH * size + _ROOM:
        raise ValueError(f"its {size:,} bytes would become {whole:,}")


def _key(name: str) -> str | None:
    return key_of(name.removeprefix(_STORE)) if name.startswith(_STORE) else None


def _artifacts(bundle: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    for name in bundle.namelist():
        if (key := _key(name)) is not None:
            data = bundle.read(name)
            try:
                decode(data, key, named=True)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            yield key, data


def _check_result(key: str, data: bytes, cells: dict[str, Any]) -> None:
    if not key.startswith("result-"):
        return
    record = decode(data).record
    read_as(RESULT, record)
    if cells.get(key, record["cell"]) != record["cell"]:
        raise ValueError(f"{key} is of another cell than {_CELLS} says")
