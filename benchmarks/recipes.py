"""What the published trainer does to accuracy, one difference after the other, on the digits or what words ask for.

python benchmarks/recipes.py [--seeds 6] [--densities 0.1 0.03] [--json FILE] [--words key=value ...]

The network of the smoke experiment, ``random_erk`` tickets, each way a sweep of its own. Batches of 128 are those of
four devices with 32 images each, as the published ones are of four with 128. A row says how far a way is from ours:
the mean difference of pairs of a seed, in points, and its standard error. Words are laid over every way's
experiment, for example ``train.epochs=2 data=cifar10``.
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

ALIKE = ["methods={dense: {}, random_erk: {}}", "variants=[original]", "wandb.mode=disabled", "train.batch_size=128"]
WAYS: dict[str, list[str]] = {
    "ours": [],
    "loss summed, clipped over kept": ["train.loss_reduction=sum"],
    "clipped over all": ["train.clip_over=all"],
    "statistics of 32": ["train.norm_batch=32"],
    "summed and clipped over all": ["train.loss_reduction=sum", "train.clip_over=all"],
    "all three": ["train.loss_reduction=sum", "train.clip_over=all", "train.norm_batch=32"],
    "3x3 shortcuts": ["model.shortcut=conv3"],
}


def accuracies(way: str, words: list[str]) -> pd.DataFrame:
    """Cells of one way: density, seed and accuracy in percent."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        experiment = load_experiment("experiments/smoke.yaml", [*ALIKE, *WAYS[way], *words, f"output={folder}"])
        run_sweep(experiment, Console(file=io.StringIO()))
        found = load_results(folder)
    return found[["density", "seed"]].assign(way=way, accuracy=100 * found["test/accuracy"])


def differences(cells: pd.DataFrame) -> pd.DataFrame:
    """For each way and density: mean accuracy, and mean and standard error of its differences from ours."""
    pairs = cells.merge(cells[cells.way == "ours"], on=["density", "seed"], suffixes=("", "_ours"))
    pairs["difference"] = pairs.accuracy - pairs.accuracy_ours
    grouped = pairs.groupby(["density", "way"], sort=False)
    return grouped.agg(
        seeds=("seed", "count"), accuracy=("accuracy", "mean"), difference=("difference", "mean"),
        error=("difference", "sem"),
    ).reset_index()  # fmt: skip


def shown(rows: pd.DataFrame) -> Table:
    """The differences as a table."""
    table = Table("density", "way", "accuracy %", "from ours, points", "seeds")
    for row in rows.sort_values("density", ascending=False, kind="stable").to_dict("records"):
        apart = "–" if row["way"] == "ours" else f"{row['difference']:+.1f} ± {row['error']:.1f}"
        table.add_row(f"{row['density']:g}", row["way"], f"{row['accuracy']:.1f}", apart, str(row["seeds"]))
    return table


def main() -> None:
    """Runs all ways and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.1, 0.03])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--words", nargs="*", default=[])
    asked = parser.parse_args()
    words = [f"seeds={list(range(asked.seeds))}", f"densities={asked.densities}", *asked.words]
    rows = differences(pd.concat([accuracies(way, words) for way in WAYS], ignore_index=True))
    Console(width=100).print(shown(rows))
    if asked.json:
        asked.json.write_text(rows.to_json(orient="records", indent=1))


if __name__ == "__main__":
    main()
