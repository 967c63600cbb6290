"""What faster ways of computing do to accuracy: the smoke network at density 0.02, each way a sweep of its own.

python benchmarks/accuracy.py [--seeds 3] [--precision bfloat16 tf32] [--words key=value ...]

Ways are ``plain`` (each cell by itself, float32), ``packed`` (up to eight side by side), and packed in each
``--precision``, of trainings and of concrete searches. Differences from ``plain`` are of the same seed: mean ±
standard error. Words are laid over every way's experiment, for example ``train.epochs=2``.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from timing import show

from prune_bench import load_results
from prune_bench.config import load_experiment
from prune_bench.sweep.sweep import run_sweep

METHODS = "methods={synflow: {}, cts_kl: {steps: 1200, batch_size: 128}}"
ALIKE = [METHODS, "densities=[0.02]", "variants=[original]", "wandb.mode=disabled"]


def ways(precisions: list[str]) -> dict[str, list[str]]:
    """Each way's words."""
    packed = ["train.pack=8"]
    found = {"plain": ["train.pack=1"], "packed": packed}
    for precision in precisions:
        found[precision] = [*packed, f"train.precision={precision}", f"methods.cts_kl.precision={precision}"]
    return found


def results(way: str, words: list[str]) -> pd.DataFrame:
    """The cells of one way's sweep: accuracy in percent, and seconds of search and training."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / way
        run_sweep(
            load_experiment("experiments/smoke.yaml", [*words, f"output={folder}"]), Console(file=io.StringIO())
        )
        found = load_results(folder)
    cells = found[["method", "seed"]].assign(way=way, accuracy=100 * found["test/accuracy"])
    return cells.assign(seconds=found["search/seconds"] + found["train/seconds"])


def compared(cells: pd.DataFrame) -> Table:
    """A row a method and way; of pairs of a seed, what the way changes."""
    table = Table("method", "way")
    for column in ("accuracy %", "from plain, points", "s a cell", "speed"):
        table.add_column(column, justify="right")
    for method, own in cells.groupby("method", sort=False):
        table.add_section()
        by_seed = {way: rows.set_index("seed") for way, rows in own.groupby("way", sort=False)}
        plain = by_seed["plain"]
        for way, rows in by_seed.items():
            change = rows.accuracy - plain.accuracy
            table.add_row(
                str(method),
                str(way),
                f"{rows.accuracy.mean():.2f} ± {rows.accuracy.std():.2f}",
                "–" if way == "plain" else f"{change.mean():+.2f} ± {change.sem():.2f}",
                f"{rows.seconds.mean():.1f}",
                f"{plain.seconds.mean() / rows.seconds.mean():.2f}",
            )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precision", nargs="*", default=[], help="float32 aside: tf32, bfloat16")
    parser.add_argument("--words", nargs="*", default=[], metavar="key=value")
    args = parser.parse_args()
    cells = []
    for way, own in ways(args.precision).items():
        print(way, file=sys.stderr)
        cells.append(results(way, [*ALIKE, f"seeds={list(range(args.seeds))}", *own, *args.words]))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    show(compared(pd.concat(cells)), device)


if __name__ == "__main__":
    main()
