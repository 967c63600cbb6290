"""All that a GPU is to be asked, in slices of under ten minutes that go on from each other.

python benchmarks/gpu.py [--out runs/gpu] [--minutes 9] [--again PART ...] [--toy] [key=value ...]

In order: what the machine is (`prune-bench doctor`), ways of running, floors, then ResNet-20 on CIFAR-10 by the
recipe of `resnet20_cifar10.yaml`, in bfloat16 with replayed steps: CTS-KL and LTR at density 0.0074, all methods
there, and the grid.
A call does as many parts as fit, stops tidily, and writes ``gpu.json`` in the folder: state, seconds and results of
every part. The same command goes on from there until nothing is left. Sweeps go on inside a part, too: they share a
store. Other parts are cut off at the end of a slice and tried once more, with a whole slice.
``--again`` does parts once more, with what failed in them. ``key=value`` is laid over the sweeps' experiment.
``--toy`` shows on a CPU that all of it works, in two epochs on made-up images; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import pandas as pd
import torch
from timing import machine

from prune_bench.report.compare import compare_run
from prune_bench.report.published import headline_table
from prune_bench.report.results import load_results

HERE = Path(__file__).parent
EXPERIMENT = str(HERE.parent / "experiments" / "resnet20_cifar10.yaml")
PRODUCT = (sys.executable, "-m", "prune_bench.cli")
HALF = "train.precision=bfloat16"
HEADLINE = f"densities=[{0.8**22!r}]"
SEARCHES = ("methods.cts.precision=bfloat16", "methods.cts_kl.precision=bfloat16")
MADE_UP = "{name: synthetic, samples: 256, test_samples: 128, image_size: 16, channels: 3, classes: 10}"
TOY = ("train.epochs=2", "train.milestones=[1]", "train.rewind_epoch=1", "train.batch_size=64", f"data={MADE_UP}",
       "model.width=4", "devices.accelerator=cpu")  # fmt: skip
SHORT = "{epochs: 1, batch_size: 64, precision: bfloat16}"
PATIENCE = 40.0  # seconds that a part has to stop
LEAST = 20.0  # seconds that are worth beginning something for


@dataclass(frozen=True, kw_only=True)
class Part:
    """Something to do.

    Attributes:
        name: Its name; its files are called so.
        words: The command.
        result: JSON file that it writes; None for a sweep, whose folder is called as it is.
    """

    name: str
    words: tuple[str, ...]
    result: Path | None = None

    @property
    def goes_on(self) -> bool:
        """Whether work that was cut off is not lost."""
        return self.result is None


def parts(out: Path, device: str, toy: bool, words: Sequence[str]) -> list[Part]:
    """Everything, in order."""
    runs = ("--runs", "1") if toy else ()

    def script(name: str, file: str, *more: str) -> Part:
        found = out / f"{name}.json"
        command = (sys.executable, str(HERE / file), "--device", device, *runs, *more, "--json", str(found))
        return Part(name=name, words=command, result=found)

    def sweep(name: str, *own: str) -> Part:
        common = (f"output={out / name}", f"store={out / 'store'}", "seeds=[0]", "variants=[original]", HALF,
                  "limits.checkpoint_seconds=30", "wandb.mode=disabled",
                  *(TOY if toy else ("devices.accelerator=cuda", "devices.replay=on")))  # fmt: skip
        return Part(name=name, words=(*PRODUCT, "sweep", EXPERIMENT, *common, *own, *words))

    many = ("methods={random_erk: {}, snip: {}, ltr: {}, cts_kl: " + SHORT + "}",) if toy else SEARCHES
    kl = SHORT if toy else "{epochs: 20, precision: bfloat16}"
    few = "densities=[0.8]" if toy else HEADLINE  # that LTR is two levels deep in a toy
    asked = (*PRODUCT, "doctor", EXPERIMENT, HALF, *(TOY if toy else ()), "--json", str(out / "doctor.json"))
    return [
        Part(name="doctor", words=asked, result=out / "doctor.json"),
        script("ways", "ways.py"),
        script("floor", "floor.py", *(("--no-measure",) if toy else ())),
        script("floor_bfloat16", "floor.py", "--precision", "bfloat16", *(("--no-measure",) if toy else ())),
        sweep("headline_cts_kl", few, "prune_at=[init]", f"methods={{cts_kl: {kl}}}"),
        sweep("headline_ltr", few, "prune_at=[rewind]", "methods={ltr: {}}"),
        sweep("table", few, *many),
        sweep("grid", *(("densities=[0.8,0.64]",) if toy else ()), *many),
    ]


def run(part: Part, seconds: float, log: Path, more: Sequence[str] = ()) -> int | None:
    """Runs a part for a time, then has it stop; its exit status, or None if it had to be stopped.

    By SIGTERM, because a process that was begun in a script's background may ignore Ctrl-C.
    """
    with log.open("ab") as said:
        child = subprocess.Popen((*part.words, *more), stdout=said, stderr=said, start_new_session=True)
        try:
            return child.wait(seconds)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as reason:
            child.terminate()
            try:
                child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                pass
            finally:
                _end(child)
            if isinstance(reason, KeyboardInterrupt):
                raise
            return None


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ends what is left: a kill costs no finished work, and a process left behind would hold the GPU."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    child.wait()


def outcome(part: Part, code: int | None, whole_slice: bool) -> str:
    """State of a part after a run; ``cut`` alone is gone on with."""
    if code is None:
        return "too long" if whole_slice and not part.goes_on else "cut"
    if code == 1 and part.words[: len(PRODUCT)] == PRODUCT:
        return "done, with failures"  # a sweep, or a visit of the doctor, that found something bad
    return "failed" if code else "done"


def result(part: Part, out: Path) -> Any:
    """What a part has found so far; None if there is nothing."""
    if part.result is not None:
        return json.loads(part.result.read_text()) if part.result.is_file() else None
    folder = out / part.name
    if not (folder / "cells.json").is_file():
        return None
    rows = measured(folder)
    published = compare_run(folder)[0].to_dict("records") if len(rows) else []
    return {"measured": rows.to_dict("records"), "beside_published": published}


def measured(folder: Path) -> pd.DataFrame:
    """A row a cell: accuracy in percent, and the minutes that finding the ticket and training it took.

    Minutes at ``rewind`` leave out the dense epochs up to the rewind point, which all methods share.
    """
    results = load_results(folder)
    results = results[results.status == "done"]
    if results.empty:
        return results
    rows = results[["method", "prune_at", "density", "variant", "seed"]].copy()
    rows["accuracy"] = 100 * results["test/accuracy"]
    rows["search_minutes"], rows["train_minutes"] = results["search/seconds"] / 60, results["train/seconds"] / 60
    rows["minutes"] = rows.search_minutes + rows.train_minutes
    return rows.sort_values(["density", "accuracy"], ascending=False)


class Book:
    """State and results of all parts, in ``gpu.json``."""

    def __init__(self, out: Path, device: str, again: Sequence[str]) -> None:
        self._out, self._file = out, out / "gpu.json"
        said = json.loads(self._file.read_text()) if self._file.is_file() else {}
        self._parts: dict[str, dict[str, Any]] = {
            name: entry for name, entry in said.get("parts", {}).items() if name not in again
        }
        self._said = {"machine": machine(torch.device(device)), "published": headline_table().to_dict("records")}

    def over(self, part: Part) -> bool:
        """Whether there is nothing more to do for it."""
        return self._parts.get(part.name, {}).get("state", "cut") != "cut"

    def note(self, part: Part, state: str, seconds: float) -> None:
        """Writes down what a slice of it came to."""
        before = self._parts.get(part.name, {"seconds": 0.0, "slices": 0})
        self._parts[part.name] = {
            "state": state, "seconds": before["seconds"] + seconds, "slices": before["slices"] + 1,
            "command": list(part.words), "result": result(part, self._out),
        }  # fmt: skip
        draft = self._file.with_suffix(".draft")
        draft.write_text(json.dumps({**self._said, "parts": self._parts}, indent=1, default=str))
        draft.replace(self._file)


def work(plan: Sequence[Part], book: Book, out: Path, seconds: float, again: Sequence[str]) -> None:
    """One slice: parts in their order until all are over or the time is."""
    end, fresh = monotonic() + seconds, True
    for part in plan:
        left = end - monotonic()
        if book.over(part):
            continue
        if left < LEAST and not fresh:
            return
        print(f"{part.name}: ", end="", flush=True)
        begun, retry = monotonic(), ["--retry-failed"] if part.goes_on and part.name in again else []
        code = run(part, left, out / f"{part.name}.log", retry)
        state, taken = outcome(part, code, fresh), monotonic() - begun
        book.note(part, state, taken)
        print(f"{state} after {taken:.0f} s" + (f", see {out / part.name}.log" if state != "done" else ""))
        if state == "cut":
            return
        fresh = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--minutes", type=float, default=9.0, help="how long this slice may take")
    parser.add_argument("--again", nargs="+", default=[], metavar="PART", help="parts to do once more")
    parser.add_argument("--toy", action="store_true", help="all of it on a CPU, at toy size")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    if not args.toy and not torch.cuda.is_available():
        parser.error("there is no GPU that torch can use here; --toy tries all of it on the CPU")
    device = "cpu" if args.toy else "cuda"
    plan = parts(args.out, device, args.toy, args.overrides)
    if unknown := set(args.again) - {part.name for part in plan}:
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}; there are {', '.join(p.name for p in plan)}")
    args.out.mkdir(parents=True, exist_ok=True)
    book = Book(args.out, device, args.again)
    try:
        work(plan, book, args.out, 60 * args.minutes, args.again)
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on")
    left = [part.name for part in plan if not book.over(part)]
    print(f"left: {', '.join(left)}; the same command goes on" if left else f"nothing is left; {args.out}/gpu.json")


if __name__ == "__main__":
    main()
