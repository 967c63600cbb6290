"""How each kind of stage is done: artifacts in, an artifact out, on one device."""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prune_bench.config import Recipe
from prune_bench.data import load_data
from prune_bench.data.protocol import DataSet, TrainingData
from prune_bench.mask import Mask
from prune_bench.metrics import mask_metrics
from prune_bench.models import build_model
from prune_bench.options import read_options
from prune_bench.pruners import pruners
from prune_bench.pruners.base import Ticket
from prune_bench.randomness import generator
from prune_bench.ranking import Ranking
from prune_bench.sweep.stages import Kind, Stage
from prune_bench.sweep.store import Artifact
from prune_bench.training import evaluate, fit, train
from prune_bench.variants import variant_mask

Inputs = dict[str, Artifact]


def compute(stage: Stage, inputs: Inputs, device: torch.device) -> Artifact:
    """Does one stage.

    Args:
        stage: What to do.
        inputs: The artifacts of ``stage.inputs``, by role.
        device: Where.
    """
    # Layers of a user's own, such as dropout, may draw from the global generators: a stage's draws are its own.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(generator(stage.spec["seed"], "global", stage.kind).initial_seed())
        return _HOW[stage.kind](stage, inputs, device)


def _state(stage: Stage, inputs: Inputs, device: torch.device) -> Artifact:
    spec, data = stage.spec, _data(stage, device)
    network = _network(stage, data)
    if spec["epoch"] == 0:
        return Artifact({"epoch": 0, "seconds": 0.0, "dense_epochs": 0.0}, _arrays(network.state_dict()))
    _load(network, inputs["init"])
    recipe, begun = _recipe(spec), time.perf_counter()
    done = train(network, Mask.full(network), recipe, data, last_epoch=spec["epoch"], device=device)
    if done.diverged is not None:
        raise FloatingPointError(f"the dense network diverged in epoch {done.diverged}, before its rewind point")
    seconds = time.perf_counter() - begun
    record = {"epoch": spec["epoch"], "seconds": seconds, "dense_epochs": float(spec["epoch"]), "curves": done.curves}
    return Artifact(record, _arrays(done.network.state_dict()))


def _ranking(stage: Stage, inputs: Inputs, device: torch.device) -> Artifact:
    spec, data = stage.spec, _data(stage, device)
    entry = pruners[spec["method"]]
    options: Any = read_options(entry.options, spec["options"], spec["method"])
    network = _load(_network(stage, data), inputs["state"])
    start = inputs.get("start")
    pruner = entry.build(
        network,
        # A ranking that serves every density is found for any: it is the same for all.
        (spec.get("density", entry.build.only_density or 0.5),),
        options,
        recipe=_recipe(spec) if "recipe" in spec else None,
        seed=spec["seed"],
        first_epoch=spec.get("epoch", 0),
        start=None if start is None else Ticket(_read_ranking(start), start.record["density"]),
    )
    begun = time.perf_counter()
    fit(pruner, pruner.work(data), epochs=1, device=device)
    ((density, ranking),) = pruner.found.items()
    before = {} if start is None else start.record
    record = {
        "density": density,
        "search/seconds": time.perf_counter() - begun + before.get("search/seconds", 0.0),
        "search/dense_epochs": pruner.dense_epochs(data.samples) + before.get("search/dense_epochs", 0.0),
        "rewind/dense_epochs": inputs["state"].record["dense_epochs"],
        "curves": pruner.curves,
        "summary": pruner.summary,
    }
    return Artifact(record, _arrays(ranking.layers))


def _ticket(stage: Stage, inputs: Inputs, device: torch.device) -> Artifact:
    spec, data = stage.spec, _data(stage, device)
    network = _load(_network(stage, data), inputs["state"])
    mask = variant_mask(_read_ranking(inputs["ranking"]), spec["density"], spec["variant"], spec["seed"])
    layers = [
        {"layer": name, "density": mask.layer_densities[name], "kept": int(keep.sum()), "total": keep.numel()}
        for name, keep in mask.items()
    ]
    record = {"metrics": mask_metrics(network, mask, data.input_shape), "layers": layers}
    return Artifact(record, _arrays(dict(mask)))


def _training(stage: Stage, inputs: Inputs, device: torch.device) -> Artifact:
    spec, data = stage.spec, _data(stage, device)
    network = _load(_network(stage, data), inputs["state"])
    mask = Mask({name: torch.from_numpy(keep) for name, keep in inputs["ticket"].tensors.items()})
    recipe, epoch = _recipe(spec), inputs["state"].record["epoch"]
    begun = time.perf_counter()
    done = train(network, mask, recipe, data, first_epoch=epoch, device=device)
    seconds = time.perf_counter() - begun
    trained = {"train/seconds": seconds, "train/dense_epochs": float(len(done.curves))}
    if done.diverged is not None:
        return Artifact({"status": "diverged", "epoch": done.diverged, "metrics": trained, "curves": done.curves})
    scores = evaluate(done.network.to(device), data.evaluation("test", recipe.eval_batch_size))
    metrics = trained | {f"test/{name}": value for name, value in scores.items()}
    return Artifact({"status": "done", "metrics": metrics, "curves": done.curves})


def _result(stage: Stage, inputs: Inputs, device: torch.device) -> Artifact:
    ranking, ticket, training = (inputs[role].record for role in ("ranking", "ticket", "training"))
    search = {name: value for name, value in ranking.items() if "/" in name} | ranking["summary"]
    record = {
        "cell": stage.spec["cell"],
        "method": stage.spec["method"],
        "options": stage.spec["options"],
        "status": training["status"],
        "reason": f"diverged in epoch {training['epoch']}" if training["status"] == "diverged" else "",
        "metrics": ticket["metrics"] | search | training["metrics"],
        "layers": ticket["layers"],
        "curves": training["curves"],
        "search_curves": ranking["curves"],
        "made_by": training["made_by"],
    }
    return Artifact(record)


_HOW: dict[Kind, Callable[[Stage, Inputs, torch.device], Artifact]] = {
    "state": _state,
    "ranking": _ranking,
    "ticket": _ticket,
    "training": _training,
    "result": _result,
}


def made_by(device: torch.device) -> dict[str, Any]:
    """Where a stage was done, for the record: versions, device, peak memory in bytes."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    peak = (
        torch.cuda.max_memory_allocated(device)
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return {
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "memory/peak_bytes": peak,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _data(stage: Stage, device: torch.device) -> DataSet:
    said = stage.spec["data"]
    return load_data(said["name"], {**said["options"], **stage.where}, stage.spec["seed"]).to(device)


def _network(stage: Stage, data: TrainingData) -> nn.Module:
    model, channels = stage.spec["model"], data.input_shape[0]
    return build_model(
        model["name"],
        model["options"],
        in_channels=channels,
        image_size=data.input_shape[-1],
        num_classes=data.num_classes,
        generator=generator(stage.spec["seed"], stage.spec.get("purpose", "init")),
    )


def _recipe(spec: dict[str, Any]) -> Recipe:
    return read_options(Recipe, spec["recipe"], "train")


def _load(network: nn.Module, state: Artifact) -> nn.Module:
    network.load_state_dict({name: torch.from_numpy(array) for name, array in state.tensors.items()})
    return network


def _read_ranking(artifact: Artifact) -> Ranking:
    return Ranking({name: torch.from_numpy(ranks) for name, ranks in artifact.tensors.items()})


def _arrays(tensors: dict[str, Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
