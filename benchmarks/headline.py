"""The paper's headline on this machine: ResNet-20 on CIFAR-10 at 99.3 % sparsity, all methods, one seed.

python benchmarks/headline.py [--minutes 9] [--output runs/headline] [--grid] [--toy] [key=value ...]

It works for so many minutes, stops tidily, writes ``headline.json`` and prints what there is; the same command goes
on from there until nothing is left. ``key=value`` words are laid over the experiment, for example ``seeds=[0,1,2]``.
``--grid`` goes on with all densities of the experiment; what the headline has found is not computed again.
``--toy`` is a run of two epochs on made-up images that shows only that all of it works.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from prune_bench.report.compare import compare_run
from prune_bench.report.published import headline_table
from prune_bench.report.results import load_results
from prune_bench.sweep.run_folder import run_store

EXPERIMENT = "experiments/resnet20_cifar10.yaml"
DENSITY = 0.8**22
MADE_UP = "{name: synthetic, samples: 256, test_samples: 128, image_size: 16, channels: 3, classes: 10}"
TOY = ["train.epochs=2", "train.milestones=[1]", "train.rewind_epoch=1", "train.batch_size=64", f"data={MADE_UP}",
       "densities=[0.5]", "model.width=4",
       "methods={dense: {}, random_erk: {}, snip: {}, ltr: {}, cts_kl: {epochs: 1, batch_size: 64}}"]  # fmt: skip
PATIENCE = 60.0  # seconds that a sweep has to stop


def sweep(words: list[str], seconds: float) -> bool:
    """Runs a sweep for a time, then stops it as Ctrl-C does; whether it came to its end."""
    command = [sys.executable, "-m", "prune_bench.cli", "sweep", EXPERIMENT, *words, "wandb.mode=disabled"]
    child = subprocess.Popen(command, start_new_session=True)
    try:
        code = child.wait(seconds)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        child.send_signal(signal.SIGINT)
        try:
            child.wait(PATIENCE)
        finally:
            if child.poll() is None:  # a kill costs no finished work, a sweep left behind would hold the device
                os.killpg(child.pid, signal.SIGKILL)
        return False
    if code:
        sys.exit(code)
    return True


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


def machine() -> dict[str, Any]:
    """Where and with what it was measured."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"gpu": gpu, "torch": torch.__version__, "when": datetime.now(timezone.utc).isoformat(timespec="seconds")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="how long this slice may take")
    parser.add_argument("--output", type=Path, default=Path("runs/headline"))
    parser.add_argument("--grid", action="store_true", help="all densities of the published table")
    parser.add_argument("--toy", action="store_true", help="two epochs on made-up images")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args()
    words = [f"output={args.output}", "seeds=[0]", "variants=[original]"]
    words += [] if args.grid else [f"densities=[{DENSITY!r}]"]
    ended = sweep([*words, *(TOY if args.toy else []), *args.overrides], 60 * args.minutes)
    rows = measured(args.output)
    published = compare_run(args.output)[0] if len(rows) else rows
    said = {"machine": machine(), "complete": ended, "store": run_store(args.output).location}
    said |= {"measured": rows.to_dict("records"), "beside_published": published.to_dict("records")}
    (args.output / "headline.json").write_text(json.dumps(said, indent=1))
    print(rows.to_string(index=False, float_format="{:.4g}".format) if len(rows) else "no cell is done yet")
    if not args.toy:
        print("published:\n" + headline_table().to_string(index=False))
    print("complete" if ended else "not complete: the same command goes on from here")


if __name__ == "__main__":
    main()
