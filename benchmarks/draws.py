"""Whether several masks a step, each for its part of the images, find better tickets in the same time.

python benchmarks/draws.py [--seeds 5] [--draws 1 2 4 8] [--densities 0.05 0.02 0.01] [--steps 1200] [--words ...]

The smoke network on the digits, CTS and CTS-KL as the smoke experiment has them. All rows see the same images, as
many a step and in the same order. Seconds are of the search, where searches side by side share theirs; differences
from one draw are of pairs of a seed: mean ± standard error.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from prune_bench import load_results
from prune_bench.config import load_experiment
from prune_bench.sweep.sweep import run_sweep

COLUMNS = {"objective": "search/hard_objective", "accuracy": "test/accuracy", "seconds": "search/seconds"}


def cells(draws: list[int], steps: int, words: list[str]) -> pd.DataFrame:
    """Every cell of one sweep of all searches."""
    methods = {
        f"{method} {count}": f"{{method: {method}, steps: {steps}, batch_size: 128, draws: {count}}}"
        for method in ("cts", "cts_kl")
        for count in draws
    }
    said = ", ".join(f"{label}: {options}" for label, options in methods.items())
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        alike = [f"methods={{{said}}}", "variants=[original]", "wandb.mode=disabled", f"output={folder}"]
        run_sweep(load_experiment("experiments/smoke.yaml", [*alike, *words]), Console(file=io.StringIO()))
        found = load_results(folder)
    found[["method", "draws"]] = found["method"].str.split(" ", expand=True)
    made = found[["method", "density", "seed"]].assign(draws=found["draws"].astype(int))
    return made.assign(**{name: found[column] for name, column in COLUMNS.items()})


def shown(found: pd.DataFrame) -> Table:
    """A row a method, density and number of draws."""
    pairs = found.merge(found[found.draws == 1], on=["method", "density", "seed"], suffixes=("", "_one"))
    pairs["points"] = 100 * (pairs.accuracy - pairs.accuracy_one)
    pairs["change"] = 100 * (pairs.objective / pairs.objective_one - 1)
    table = Table("method", "density", "draws", "hard objective", "change %", "accuracy %", "points", "search s")
    for (method, density, draws), own in pairs.groupby(["method", "density", "draws"], sort=True):
        apart = [f"{own[name].mean():+.1f} ± {own[name].sem():.1f}" for name in ("change", "points")]
        change, points = apart if draws > 1 else ("–", "–")
        table.add_row(
            str(method), f"{density:g}", str(draws), f"{own.objective.mean():.3g}", change,
            f"{100 * own.accuracy.mean():.1f}", points, f"{own.seconds.mean():.1f}",
        )  # fmt: skip
    return table


def main() -> None:
    """Runs the sweep and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--densities", type=float, nargs="+", default=[0.05, 0.02, 0.01])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--words", nargs="*", default=[])
    asked = parser.parse_args()
    words = [f"seeds={list(range(asked.seeds))}", f"densities={asked.densities}", *asked.words]
    Console(width=110).print(shown(cells(asked.draws, asked.steps, words)))


if __name__ == "__main__":
    main()
