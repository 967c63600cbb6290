"""What the sweep engine saves and costs: work shared, workers busy, seconds a stage, a plan, a rerun, a kill.

python benchmarks/engine.py [sharing] [plan] [overhead] [commands] [busy] [kill]
"""

from __future__ import annotations

import io
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console

from prune_bench.config import load_experiment, make_experiment
from prune_bench.sweep import compute
from prune_bench.sweep.dry_run import sharing
from prune_bench.sweep.executors import find_devices, make_executor
from prune_bench.sweep.executors.inline import InlineExecutor
from prune_bench.sweep.graph import missing_stages
from prune_bench.sweep.pack_sizes import pack_sizes
from prune_bench.sweep.packs import make_packs
from prune_bench.sweep.runner import run_plan
from prune_bench.sweep.store import Artifact, Store
from prune_bench.sweep.sweep import prepare, run_sweep, sample_data

SMOKE = "experiments/smoke.yaml"
TINY = {
    "model": "lenet300_100",
    "data": {"name": "synthetic", "samples": 64, "test_samples": 32, "image_size": 4, "channels": 1, "classes": 3},
    "train": {"epochs": 2, "milestones": [1], "batch_size": 16},
    "wandb": {"mode": "disabled"},
}


def shared_work(folder: Path) -> None:
    """Dense epochs of the published grid, shared and not; on images that have CIFAR-10's shape and number."""
    data = "data={name: synthetic, samples: 50000, test_samples: 100, image_size: 32, channels: 3, classes: 10}"
    plan = prepare(load_experiment("experiments/resnet20_cifar10.yaml", [data, f"output={folder}"]))
    with_sharing, without = sharing(plan)
    print(f"published ResNet-20 grid, {len(plan.cells)} cells, {len(plan.stages)} stages:")
    print(f"  {with_sharing:,.0f} dense epochs shared, {without:,.0f} not: ratio {with_sharing / without:.3f}")


def large_plan(folder: Path) -> None:
    """Seconds and memory of planning 100,000 cells."""
    words = {"methods": ["snip", "grasp", "synflow", "ltr", "cts"], "variants": ["original", "invert"]}
    grid = {"densities": [0.01 + 0.98 * i / 1000 for i in range(1000)], "seeds": list(range(10))}
    experiment = make_experiment({"name": "large", **TINY, **words, **grid}, [f"output={folder}"])
    before, begun = psutil.Process().memory_info().rss, time.perf_counter()
    plan = prepare(experiment)
    seconds = time.perf_counter() - begun
    grown = psutil.Process().memory_info().rss - before
    print(
        f"plan of {len(plan.cells):,} cells, {len(plan.stages):,} stages: {seconds:.1f} s, {grown / 2**20:,.0f} MiB"
    )


def _nothing(stages, inputs, device, checkpoint=None):  # type: ignore[no-untyped-def]
    return [Artifact({}) for _ in stages]


def overhead(folder: Path) -> None:
    """What a stage costs whose computation is nothing."""
    print(f"a stage that computes nothing: {1e3 * stage_seconds(folder):.1f} ms")


def stage_seconds(folder: Path) -> float:
    """Seconds a stage whose computation is nothing: claims, log, artifact, and the runner's own."""
    real, compute.compute = compute.compute, _nothing
    try:
        words = {"methods": ["snip", "magnitude"], "densities": [0.01 * i for i in range(1, 51)], "seeds": [0, 1]}
        experiment = make_experiment({"name": "overhead", **TINY, **words}, [f"output={folder}"])
        plan, store = prepare(experiment), Store(folder / "store")
        todo = missing_stages(plan, store)
        begun = time.perf_counter()
        run_plan(
            todo, [(key,) for key in todo], store, InlineExecutor("cpu"), threads=1,
            limits=experiment.limits, watch=lambda progress, finished: None,
        )  # fmt: skip
        return (time.perf_counter() - begun) / len(todo)
    finally:
        compute.compute = real


def commands(folder: Path) -> None:
    """Seconds of whole commands that compute nothing."""
    for what, words in idle_commands(folder).items():
        took = [command_seconds(words) for _ in range(5)]
        print(f"{what}: {statistics.median(took):.2f} s ({min(took):.2f} to {max(took):.2f})")


def idle_commands(folder: Path) -> dict[str, list[str]]:
    """Commands that compute nothing, among them a sweep of 1,000 cells; it is run here, and is done afterwards."""
    words = ["methods={snip: {}, magnitude: {}}", f"densities={[round(0.002 * i, 3) for i in range(1, 251)]}"]
    words += ["variants=[original]", "seeds=[0,1]", "wandb.mode=disabled", f"output={folder}", "executor=inline"]
    words += ["train={epochs: 1, milestones: [], batch_size: 64}", "model={name: lenet300_100}"]
    words += ["data={name: synthetic, samples: 64, test_samples: 32, image_size: 4, channels: 1, classes: 3}"]
    words += ["train.rewind_epoch=0", "prune_at=[init]"]
    run_sweep(load_experiment(SMOKE, words), Console(file=io.StringIO()))
    return {
        "sweep of 1,000 cells, all done": ["sweep", SMOKE, *words],
        "prune-bench --help": ["--help"],
        "prune-bench methods": ["methods"],
    }


def command_seconds(words: list[str]) -> float:
    """Seconds of ``prune-bench`` with these words, Python's start included."""
    begun = time.perf_counter()
    subprocess.run([_command(), *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def busy(folder: Path) -> None:
    """What part of the smoke sweep's wall time its workers compute, from the first to the last stage."""
    experiment = load_experiment(SMOKE, [f"output={folder}", "wandb.mode=disabled"])
    plan, devices = prepare(experiment), find_devices(experiment)
    store, executor = Store(folder / "store"), make_executor(experiment, devices)
    packs = make_packs(plan, pack_sizes(experiment, sample_data(experiment), "cpu"))
    began: list[float] = []
    begun = time.perf_counter()
    try:
        progress = run_plan(
            missing_stages(plan, store), packs, store, executor, threads=1, limits=experiment.limits,
            watch=lambda progress, finished: began.append(time.perf_counter()) if finished and not began else None,
        )  # fmt: skip
    finally:
        executor.close()
    wall, worked = time.perf_counter() - begun, sum(progress.done.values())
    print(f"smoke sweep: {wall:.0f} s with {len(devices)} workers, busy {worked / len(devices) / wall:.3f} of it")
    print(f"  (the first stage was finished {began[0] - begun:.1f} s after the start: workers import torch)")


def kill(folder: Path) -> None:
    """Seconds that a sweep loses by kill -9 of its driver half-way, beside one that is left alone."""

    def sweep(name: str) -> subprocess.Popen[bytes]:
        words = [f"output={folder / name}", "wandb.mode=disabled", "--fast"]
        return subprocess.Popen([_command(), "sweep", SMOKE, *words], stdout=subprocess.DEVNULL)

    lost = []
    for turn in range(3):
        begun = time.perf_counter()
        sweep(f"whole{turn}").wait()
        alone = time.perf_counter() - begun
        begun, victim = time.perf_counter(), sweep(f"cut{turn}")
        time.sleep(alone / 2)
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
        sweep(f"cut{turn}").wait()
        lost.append(time.perf_counter() - begun - alone)
    said = f"{statistics.median(lost):.1f} s ({min(lost):.1f} to {max(lost):.1f})"
    print(f"a kill half-way through a sweep of {alone:.0f} s costs {said}, starting Python and torch again included")


def _command() -> str:
    return str(Path(sys.executable).with_name("prune-bench"))


FIGURES = {
    "sharing": shared_work,
    "plan": large_plan,
    "overhead": overhead,
    "commands": commands,
    "busy": busy,
    "kill": kill,
}

if __name__ == "__main__":
    for figure in sys.argv[1:] or FIGURES:
        with tempfile.TemporaryDirectory() as place:
            FIGURES[figure](Path(place) / "run")
