"""Runs with results that were never computed, as the store would hold them."""

import hashlib
import random
from dataclasses import asdict

from prune_bench.config import make_experiment, save_experiment
from prune_bench.sweep.cells import Cell
from prune_bench.sweep.run_folder import RunCells, write_cells
from prune_bench.sweep.store import Artifact, Store

LAYERS = ("conv1.weight", "layer1.0.conv1.weight", "fc.weight")


def accuracy_of(cell):
    """Falls with sparsity, faster for later methods and for variants; another draw a seed."""
    draw = random.Random(repr(cell)).gauss(0, 0.004)
    return 0.95 - 0.02 * len(cell.method) * (1 - cell.density) ** 9 - 0.1 * (cell.variant != "original") + draw


def make_run(
    folder, *, methods=("snip", "grasp", "synflow"), densities=(0.1, 0.05, 0.01), seeds=3, epochs=4,
    variants=("original", "layer_shuffle"), lost=(), accuracy=accuracy_of, dense=True, model="resnet8",
    data="digits", prune_at="init", options=None, experiment=None,
):  # fmt: skip
    """Writes a whole run; the cells named in ``lost`` have failed."""
    cells = [("dense", 1.0, "original")] if dense else []
    cells += [(method, density, variant) for method in methods for density in densities for variant in variants]
    store, rows = Store(folder / "store"), []
    for method, density, variant in cells:
        for seed in range(seeds):
            cell = Cell(model=model, data=data, prune_at=prune_at, method=method, density=density,
                        variant=variant, seed=seed)  # fmt: skip
            key = f"result-{hashlib.md5(repr((folder.name, cell)).encode()).hexdigest()}"
            reason = "RuntimeError: <b>out</b> of luck" if (method, density, variant, seed) in lost else ""
            rows.append({"cell": asdict(cell), "key": key, "reason": reason})
            if not reason:
                store.write(key, Artifact(record(cell, accuracy(cell), epochs) | (options or {}).get(method, {})))
    write_cells(folder, RunCells(store="", rows=rows))
    made = experiment or make_experiment({"name": "made"}, ["methods={dense: {}}"])
    save_experiment(made, folder / "experiment.yaml")
    return folder


def record(cell, accuracy, epochs):
    kept = round(1000 * cell.density)
    metrics = {
        "test/accuracy": accuracy, "test/loss": 1 - accuracy, "kept": kept, "total": 1000, "density": cell.density,
        "effective_density": 0.9 * cell.density, "collapsed": cell.density < 0.02 and cell.method == "snip",
        "search/seconds": 0.5 * len(cell.method), "train/seconds": 60.0,
        "search/dense_epochs": float(len(cell.method)),
    }  # fmt: skip
    curve = [
        {"epoch": epoch, "train/loss": 2 / (1 + epoch), "validation/accuracy": accuracy * epoch / epochs}
        for epoch in range(epochs)
    ]
    layers = [{"layer": name, "density": cell.density, "kept": kept, "total": 1000} for name in LAYERS]
    made_by = {"torch": "2.15.0", "python": "3.11", "device": "cpu: x", "lanes": 1}
    return {"cell": asdict(cell), "status": "done", "reason": "", "metrics": metrics, "curves": curve,
            "layers": layers, "made_by": made_by, "options": {}, "method": cell.method}  # fmt: skip
