"""How each kind of stage is done: artifacts in, an artifact out, on one device."""

from __future__ import annotations

import contextlib
import platform
import resource
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prune_bench.config import Recipe
from prune_bench.data import DeviceData, load_data
from prune_bench.data.protocol import DataSet, TrainingData
from prune_bench.errors import DataError
from prune_bench.mask import Mask
from prune_bench.metrics import mask_metrics
from prune_bench.models import build_model
from prune_bench.options import read_options
from prune_bench.packing import pack, pack_data
from prune_bench.parallel import WholeBatches, rank, ranks
from prune_bench.precision import products, repeatable
from prune_bench.pruners import pruners
from prune_bench.pruners.base import Pruner, Ticket
from prune_bench.randomness import generator
from prune_bench.ranking import Ranking, check_agreement
from prune_bench.sweep.stages import Kind, Stage
from prune_bench.sweep.store import Artifact
from prune_bench.ties import Ties, message
from prune_bench.training import Checkpoint, Trained, evaluate_lanes, fit, train_lanes
from prune_bench.variants import variant_mask

_last: dict[torch.device, DeviceData] = {}
"""Data set of each device's last stage: while it lives, others of the same pixels share its copy of them."""

Inputs = dict[str, Artifact]
How = Callable[[Sequence[Stage], Sequence[Inputs], torch.device, Checkpoint | None], list[Artifact]]


def compute(
    stages: Sequence[Stage], inputs: Sequence[Inputs], device: torch.device, checkpoint: Checkpoint | None = None
) -> list[Artifact]:
    """Does one stage, or several alike side by side.

    Args:
        stages: What to do; of one kind.
        inputs: For each the artifacts of its ``inputs``, by role.
        device: Where.
        checkpoint: Where trainings keep how far they are; of these stages and no others.
    """
    first = stages[0]
    device = device if first.needs_device else torch.device("cpu")
    # The mode costs something at every call of torch's, so that it is left out where it would do nothing.
    whole = WholeBatches() if ranks() > 1 else contextlib.nullcontext()
    # Layers of a user's own, such as dropout, may draw from the global generators: a stage's draws are its own.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), whole:
        purpose = ("global", first.kind, *([rank()] if rank() else []))
        torch.manual_seed(generator(first.spec["seed"], *purpose).initial_seed())
        with repeatable(device), products("float32"):  # but for passes that are told otherwise
            return _HOW[first.kind](stages, inputs, device, checkpoint)


def _state(
    stages: Sequence[Stage], inputs: Sequence[Inputs], device: torch.device, checkpoint: Checkpoint | None
) -> list[Artifact]:
    data, epoch = _data(stages), stages[0].spec["epoch"]
    networks = [_network(stage, own) for stage, own in zip(stages, data)]
    if epoch == 0:
        record = {"epoch": 0, "seconds": 0.0, "dense_epochs": 0.0}
        return [Artifact(record, _arrays(network.state_dict())) for network in networks]
    for network, own in zip(networks, inputs):
        _load(network, own["init"])
    recipe, together = _recipe(stages[0].spec), pack_data(_moved(data, device))
    begun, full = time.perf_counter(), [Mask.full(network) for network in networks]
    lanes = train_lanes(networks, full, recipe, together, last_epoch=epoch, device=device, checkpoint=checkpoint)
    seconds = (time.perf_counter() - begun) / len(lanes)
    for lane in lanes:
        if lane.diverged is not None:
            raise FloatingPointError(f"the dense network diverged in epoch {lane.diverged}, before its rewind point")
    record = {"epoch": epoch, "seconds": seconds, "dense_epochs": float(epoch)}
    return [Artifact({**record, "curves": lane.curves}, _arrays(lane.network.state_dict())) for lane in lanes]


def _ranking(
    stages: Sequence[Stage], inputs: Sequence[Inputs], device: torch.device, checkpoint: Checkpoint | None
) -> list[Artifact]:
    data = _moved(_data(stages), device)
    lanes = [_pruner(*own) for own in zip(stages, inputs, data)]
    begun = time.perf_counter()
    lanes[0].join(lanes[1:])
    fit(lanes[0], lanes[0].work(pack_data(data)), epochs=1, device=device, checkpoint=checkpoint)
    seconds = (time.perf_counter() - begun) / len(lanes)
    check_agreement([lane.found for lane in lanes], stages[0].spec["method"], device)
    return [_found(lane, own, data[0].samples, seconds) for lane, own in zip(lanes, inputs)]


def _pruner(stage: Stage, inputs: Inputs, data: DataSet) -> Pruner:
    spec, entry = stage.spec, pruners[stage.spec["method"]]
    options: Any = read_options(entry.options, spec["options"], spec["method"])
    start = inputs.get("start")
    return entry.build(
        _load(_network(stage, data), inputs["state"]),
        # A ranking that serves every density is found for any: it is the same for all.
        (spec.get("density", entry.build.only_density or 0.5),),
        options,
        recipe=_recipe(spec) if "recipe" in spec else None,
        seed=spec["seed"],
        first_epoch=spec.get("epoch", 0),
        start=None if start is None else Ticket(_read_ranking(start), start.record["density"]),
    )


def _found(pruner: Pruner, inputs: Inputs, samples: int, seconds: float) -> Artifact:
    ((density, ranking),) = pruner.found.items()
    before = inputs["start"].record if "start" in inputs else {}
    record = {
        "density": density,
        "search/seconds": seconds + before.get("search/seconds", 0.0),
        "search/dense_epochs": pruner.dense_epochs(samples) + before.get("search/dense_epochs", 0.0),
        "rewind/dense_epochs": inputs["state"].record["dense_epochs"],
        "curves": pruner.curves,
        "summary": pruner.summary,
        "ties": ranking.ties.record(),
    }
    return Artifact(record, _arrays(ranking.layers))


def _ticket(stage: Stage, inputs: Inputs, device: torch.device) -> Artifact:
    spec, (data,) = stage.spec, _data([stage])
    network = _load(_network(stage, data), inputs["state"])
    mask = variant_mask(_read_ranking(inputs["ranking"]), spec["density"], spec["variant"], spec["seed"])
    layers = [
        {"layer": name, "density": mask.layer_densities[name], "kept": int(keep.sum()), "total": keep.numel()}
        for name, keep in mask.items()
    ]
    metrics = mask_metrics(network, mask, data.input_shape) | _tied(stage, inputs["ranking"], mask)
    record = {"metrics": metrics, "layers": layers}
    return Artifact(record, _arrays(dict(mask)))


def _tied(stage: Stage, ranking: Artifact, mask: Mask) -> dict[str, int]:
    """How many equal scores the ticket's cut separates; of variants, the original's."""
    ties = Ties.read(ranking.record)
    if ties is None:  # a ranking of an earlier version
        return {}
    tied, density = ties.at(mask.total - mask.kept), stage.spec["density"]
    if tied and stage.spec["variant"] == "original":
        warnings.warn(message(stage.method or "the search", density, tied, mask.kept), stacklevel=2)
    return {"search/tied": tied}


def _training(
    stages: Sequence[Stage], inputs: Sequence[Inputs], device: torch.device, checkpoint: Checkpoint | None
) -> list[Artifact]:
    data, recipe = _moved(_data(stages), device), _recipe(stages[0].spec)
    networks = [_load(_network(s, d), own["state"]) for s, d, own in zip(stages, data, inputs)]
    masks = [_read_mask(own["ticket"]) for own in inputs]
    together, begun = pack_data(data), time.perf_counter()
    epoch = inputs[0]["state"].record["epoch"]
    lanes = train_lanes(networks, masks, recipe, together, first_epoch=epoch, device=device, checkpoint=checkpoint)
    seconds = (time.perf_counter() - begun) / len(lanes)
    packed = pack([lane.network for lane in lanes])
    tests = together.evaluation("test", recipe.eval_batch_size)
    scores = evaluate_lanes(packed, tests, len(lanes), recipe.norm_batch)
    return [_trained(lane, seconds, own) for lane, own in zip(lanes, scores)]


def _trained(lane: Trained, seconds: float, scores: dict[str, float]) -> Artifact:
    metrics = {"train/seconds": seconds, "train/dense_epochs": float(len(lane.curves))}
    if lane.diverged is not None:
        return Artifact({"status": "diverged", "epoch": lane.diverged, "metrics": metrics, "curves": lane.curves})
    metrics |= {f"test/{name}": value for name, value in scores.items()}
    return Artifact({"status": "done", "metrics": metrics, "curves": lane.curves})


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


def _each(how: Callable[[Stage, Inputs, torch.device], Artifact]) -> How:
    return lambda stages, inputs, device, checkpoint: [how(stage, own, device) for stage, own in zip(stages, inputs)]


_HOW: dict[Kind, How] = {
    "state": _state,
    "ranking": _ranking,
    "ticket": _each(_ticket),
    "training": _training,
    "result": _each(_result),
}


def made_by(device: torch.device, lanes: int) -> dict[str, Any]:
    """Where a stage was done, for the record: versions, device, peak memory in bytes, lanes side by side."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    peak = (
        torch.cuda.max_memory_allocated(device)
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return {
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "lanes": lanes,
        "ranks": ranks(),
        "memory/peak_bytes": peak,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _data(stages: Sequence[Stage]) -> list[DataSet]:
    """Each stage's data, on the CPU, where its shape and size are read; stages of one seed share theirs."""
    loaded: dict[int, DataSet] = {}
    for stage in stages:
        said, seed = stage.spec["data"], stage.spec["seed"]
        if seed not in loaded:
            loaded[seed] = load_data(said["name"], {**said["options"], **stage.where}, seed)
            if loaded[seed].fingerprint != said["fingerprint"]:
                words = "is not what the sweep was planned with: it has changed, or another copy lies here"
                raise DataError(f"the data set {said['name']} {words}; run the same command again to plan anew")
    return [loaded[stage.spec["seed"]] for stage in stages]


def _moved(data: list[DataSet], device: torch.device) -> list[DataSet]:
    """The same data sets, on the device, where the pixels of the last ones stay for the next stage."""
    kept = _last.get(device)
    if kept is not None and kept.fingerprint != data[0].fingerprint:
        del kept, _last[device]  # before others need their place
    moved = [own.to(device) for own in data]
    if isinstance(moved[0], DeviceData):
        _last[device] = moved[0]
    return moved


def _network(stage: Stage, data: TrainingData) -> nn.Module:
    model = stage.spec["model"]
    return build_model(
        model["name"],
        model["options"],
        input_shape=data.input_shape,
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


def _read_mask(artifact: Artifact) -> Mask:
    return Mask({name: torch.from_numpy(keep) for name, keep in artifact.tensors.items()})


def _arrays(tensors: dict[str, Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
