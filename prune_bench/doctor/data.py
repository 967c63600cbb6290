"""The experiment's data set: whether it is there, or can be had."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_bench.config import Experiment
from prune_bench.doctor.lines import Line, Subject
from prune_bench.errors import PruneBenchError

if TYPE_CHECKING:
    from prune_bench.data.downloads import Download

_PATIENCE = 6.0  # seconds


def look(subject: Subject) -> Iterator[Line]:
    """One line; nothing is downloaded."""
    from prune_bench.data import data_root, load_data

    choice = subject.experiment.data
    root = data_root(str(choice.options.get("root", "")))
    if (missing := _to_download(subject.experiment, root)) is not None:
        yield _downloadable(missing, root)
        return
    try:
        data = load_data(choice.name, choice.options, subject.experiment.seeds[0])
    except PruneBenchError as error:
        yield Line(name="data", verdict="mend", words=str(error), values={"data_there": False})
        return
    shape = " x ".join(str(size) for size in data.input_shape)
    words = f"{choice.name}: {data.samples:,} training images of {shape}, {data.num_classes} classes"
    size = sum(file.stat().st_size for file in (root / choice.name).glob("*.safetensors"))
    words += f"; {size / 1e6:,.0f} MB at {root / choice.name}" if size > 1e6 else ""
    yield Line(name="data", verdict="pass", words=words, values=_values(True, data.input_shape, data.num_classes))


def _to_download(experiment: Experiment, root: Path) -> Download | None:
    """The data set if it is to be downloaded; None if it is there, or comes from elsewhere."""
    from prune_bench.data.cache import SPLITS
    from prune_bench.data.downloads import DOWNLOADS

    name = experiment.data.name
    found = [download for download in DOWNLOADS if download.name == name]
    if not found or all((root / name / f"{split}.safetensors").is_file() for split in SPLITS):
        return None
    return found[0]


def _downloadable(download: Download, root: Path) -> Line:
    name, url = download.name, _address(download)
    values = _values(False, download.expected.shape, download.expected.classes)
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE) as reply:
            size = int(reply.headers.get("Content-Length") or 0)
    except (OSError, ValueError) as error:
        folder = root / name
        words = (
            f"{name} is not in {folder}, and {url} does not answer ({error}). Put train.safetensors and "
            "test.safetensors there from another machine's cache, or point PRUNE_BENCH_DATA to a folder that has them"
        )
        return Line(name="data", verdict="mend", words=words, values=values)
    much = f" ({size / 1e6:,.0f} MB)" if size > 1e6 else ""
    words = f"{name} is not in {root / name} yet; a sweep's first step downloads it{much}, and {url} answers"
    return Line(name="data", verdict="pass", words=words, values=values)


def _address(download: Download) -> str:
    """Where torchvision downloads it from; of several files and mirrors the first."""
    import torchvision

    cls: Any = getattr(torchvision.datasets, download.cls)
    return str(cls.url) if hasattr(cls, "url") else f"{cls.mirrors[0]}{cls.resources[0][0]}"


def _values(there: bool, shape: tuple[int, ...], classes: int | None) -> dict[str, Any]:
    return {"data_there": there, "input_shape": list(shape), "classes": classes}
