"""The doctor's round: which checks, in which processes, in which order."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from prune_bench.config import Experiment, load_experiment, make_experiment
from prune_bench.doctor.examiner import Examiner
from prune_bench.doctor.lines import Check, Subject
from prune_bench.doctor.show import Show, write_json
from prune_bench.errors import PruneBenchError
from prune_bench.sweep.executors.processes import own_device

_HERE = "prune_bench.doctor"
_DISK = "the file system does not answer; look at its mount, or name another with output= and store="
MACHINE = (
    Check(name="versions", function=f"{_HERE}.versions:look", seconds=300, hint="torch does not load: a slow disk?"),
    Check(name="machine", function=f"{_HERE}.machine:look", seconds=20),
    Check(name="disk", function=f"{_HERE}.disk:look", seconds=30, hint=_DISK),
    Check(name="store", function=f"{_HERE}.store:look", seconds=30, hint=_DISK),
    Check(name="W&B", function=f"{_HERE}.wandb:look", seconds=10, hint="wandb.mode=offline needs no network"),
    Check(name="data", function=f"{_HERE}.data:look", seconds=120, hint="PRUNE_BENCH_DATA names another folder"),
)
_GPU = Check(name="GPU", function=f"{_HERE}.gpu:look", seconds=120, hint="the GPU hangs: nvidia-smi, or a reboot")
STEPS = (
    Check(name="stages", function=f"{_HERE}.stages:look", seconds=120),
    Check(name="replay", function=f"{_HERE}.bits:replay", seconds=180),
    Check(name="twice", function=f"{_HERE}.bits:twice", seconds=120),
    Check(name="float64", function=f"{_HERE}.double:look", seconds=60),
)
_LANES = Check(name="steps", function=f"{_HERE}.lanes:look", seconds=240)
_PROFILE = Check(name="profile", function=f"{_HERE}.gpu:keep", seconds=20)
_RANKS = Check(name="ranks", function=f"{_HERE}.ranks:look", seconds=300, hint="keep devices.per_cell at 1")
_PLAN = Check(name="plan", function=f"{_HERE}.plan:look", seconds=180)
_DEFAULT = Path("experiments/smoke.yaml")
_BUILT_IN = {"name": "doctor", "methods": ["magnitude", "ltr", "cts_kl"]}


def choose_experiment(file: str | None, words: list[str]) -> Experiment:
    """The experiment that is named, or else the smoke experiment if its file is here, or else the defaults.

    Raises:
        ConfigError: It is none.
    """
    if file is None and not _DEFAULT.is_file():
        return make_experiment(_BUILT_IN, words)
    return load_experiment(file or _DEFAULT, words)


def run_doctor(experiment: Experiment, console: Console, json_path: Path | None = None) -> int:
    """Makes all checks, prints a line for each, and writes the profile of each kind of GPU.

    Args:
        experiment: What is to be run on this machine.
        console: Where to print.
        json_path: Where the lines go as data too.

    Returns:
        0 if nothing is to be mended, else 1.

    Raises:
        PruneBenchError: The file for the data cannot be written; nothing was looked at.
    """
    begun, show = time.monotonic(), Show(console)
    content: dict[str, Any] = {"experiment": experiment.name, "done": False, "sections": show.sections}
    _write(json_path, content)
    with Examiner() as examiner:
        known = _look(examiner, MACHINE, Subject(experiment=experiment), show, f"This machine, for {experiment.name}")
        devices = known.get("devices", ["cpu"])
        gpus = [device for device in devices if device.startswith("cuda")]
        if not gpus:
            here = Subject(experiment=experiment, known=known)
            _look(examiner, (*STEPS, _LANES), here, show, "CPU")
        _look_at_gpus(gpus, Subject(experiment=experiment, known=known), show)
        if len(gpus) > 1 or experiment.devices.per_cell > 1:
            _look_at_two(gpus[:2] or ["cpu", "cpu"], Subject(experiment=experiment, known=known), show)
        _look(examiner, (_PLAN,), Subject(experiment=experiment, known=known), show, "What would run")
    seconds = time.monotonic() - begun
    show.end(seconds)
    _write(json_path, content | {"done": True, "mends": show.mends, "seconds": seconds})
    return 1 if show.mends else 0


def _look(examiner: Examiner, checks: tuple[Check, ...], subject: Subject, show: Show, title: str) -> dict[str, Any]:
    """Makes checks, each with what the ones before it have found; gives all that is known then."""
    show.section(title)
    known = dict(subject.known)
    for check in checks:
        for line in examiner.examine(check, replace(subject, known=known)):
            show.line(line)
            known |= line.values
    return known


def _look_at_gpus(gpus: list[str], subject: Subject, show: Show) -> None:
    """A fresh process a GPU; steps are timed on the first of each kind."""
    measured = []
    for gpu in gpus:
        device, environment = own_device(gpu, os.environ.get("CUDA_VISIBLE_DEVICES"))
        own = replace(subject, device=device)
        with Examiner(environment) as examiner:
            known = _look(examiner, (_GPU, *STEPS), own, show, f"GPU {gpu}")
            if (kind := known.get("versions")) in measured or "memory_bytes" not in known:
                continue
            measured.append(kind)
            _look(
                examiner, (_LANES, _PROFILE), replace(own, known=known), show, f"GPU {gpu}: steps of the experiment"
            )


def _look_at_two(devices: list[str], subject: Subject, show: Show) -> None:
    device, environment = own_device("+".join(devices), os.environ.get("CUDA_VISIBLE_DEVICES"))
    with Examiner(environment) as examiner:
        _look(examiner, (_RANKS,), replace(subject, device=device), show, "Two devices together")


def _write(path: Path | None, content: dict[str, Any]) -> None:
    if path is not None:
        try:
            write_json(path, content)
        except OSError as error:
            raise PruneBenchError(f"--json {path} cannot be written: {error}") from None
