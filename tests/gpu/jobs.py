"""Every kind of work of the product at toy size, on any device.

A job gives all that it found as nested lists and dictionaries of tensors and numbers, for comparison.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

import prune_bench as pb
from prune_bench.config import Recipe
from prune_bench.data import load_data
from prune_bench.data.protocol import Batch
from prune_bench.data.user import as_training_data
from prune_bench.files import LocalFiles
from prune_bench.mask import Mask, prunable_weights
from prune_bench.metrics import mask_metrics
from prune_bench.models import build_model
from prune_bench.packing import pack_data
from prune_bench.pruners import pruners
from prune_bench.pruners.base import Pruner
from prune_bench.pruners.objectives import OBJECTIVES
from prune_bench.randomness import generator
from prune_bench.ranking import Ranking
from prune_bench.training import Checkpoint, fit, train_lanes
from prune_bench.variants import variant_mask

SIZE, CLASSES, STEPS = 16, 4, 3  # pixels a side; steps an epoch
RECIPE = Recipe(epochs=2, batch_size=28, milestones=(1,), eval_batch_size=25)
DATA = {"samples": 96, "test_samples": 50, "image_size": SIZE, "channels": 3, "classes": CLASSES, "validation": 0.1}
# Searches end with the first step of their second epoch: a loop of steps is then watched to its end.
SEARCH = {"steps": STEPS + 1, "batch_size": RECIPE.batch_size}
EVERY = {"snip": {}, "grasp": {}, "synflow": {"steps": 3}, "cts": {"steps": 3}, "ltr": {}}


@dataclass
class Place:
    """Where a job is done, and what is around its steps.

    Attributes:
        device: The device.
        inside: Entered before the second step of an epoch is begun, and left when its last has ended.
        dtype: Of weights and images.
        steps: Batches that were used inside so far.
        epochs: Numbers of the epochs that were begun.
    """

    device: torch.device
    inside: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    dtype: torch.dtype = torch.float32
    steps: int = 0
    epochs: list[int] = field(default_factory=list)

    def network(self, seed: int, model: str = "resnet8") -> nn.Module:
        """An untrained network, on the CPU."""
        shape = {"in_channels": 3, "image_size": SIZE, "num_classes": CLASSES}
        return build_model(model, {"width": 4}, generator=generator(seed, "job"), **shape).to(self.dtype)

    def data(self, lanes: int = 1, *, shared: bool = False, cut_off: int | None = None) -> Any:
        """Data of several seeds side by side, on the device.

        Args:
            lanes: How many.
            shared: All lanes have the same.
            cut_off: Number of the batch at which Ctrl-C is pressed, from 0.
        """
        own = [load_data("synthetic", DATA, seed).to(self.device) for seed in range(1 if shared else lanes)]
        together = pack_data(own * lanes if shared else own)
        return self.watched(together, cut_off)

    def watched(self, data: Any, cut_off: int | None = None) -> Any:
        """The data, of :attr:`dtype` and with :attr:`inside` around their steps."""
        epoch, balanced, evaluation, given = data.epoch, data.balanced, getattr(data, "evaluation", None), 0

        def watched(number: int, *args: Any, **how: Any) -> Iterator[Batch]:
            nonlocal given
            self.epochs.append(number)
            with contextlib.ExitStack() as stack:
                for index, batch in enumerate(epoch(number, *args, **how)):
                    if given == cut_off:
                        raise KeyboardInterrupt
                    given += 1
                    self.steps += index > 0
                    yield self._typed(batch)
                    if index == 0 and cut_off is None:
                        stack.enter_context(self.inside())

        data.epoch = watched
        data.balanced = lambda *args: self._typed(balanced(*args))
        data.evaluation = lambda *args: map(self._typed, evaluation(*args))
        return data

    def _typed(self, batch: Batch) -> Batch:
        return batch[0].to(self.dtype), batch[1]


def random_mask(network: nn.Module, seed: int, density: float = 0.3) -> Mask:
    draw = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(w.shape, generator=draw) for name, w in prunable_weights(network).items()}
    return Ranking.from_scores(scores).mask(density)


def train(place: Place, lanes: int = 1, precision: str = "float32", model: str = "resnet8", **how: Any) -> list[Any]:
    """Trains masked networks; gives their states and curves."""
    networks = [place.network(seed, model) for seed in range(lanes)]
    masks = [random_mask(network, seed) for seed, network in enumerate(networks)]
    recipe, checkpoint = dataclasses.replace(RECIPE, precision=precision), how.pop("checkpoint", None)
    data = place.data(lanes, **how)
    trained = train_lanes(networks, masks, recipe, data, device=place.device, checkpoint=checkpoint)
    return [(lane.network.state_dict(), lane.curves) for lane in trained]


def search(
    place: Place, method: str, lanes: int = 1, density: float = 0.3, shared: bool = False, **options: Any
) -> list[Any]:
    """Searches for tickets; gives each lane's rankings, curves and summary."""
    entry = pruners.find(method, "method")
    how = {name: options.pop(name) for name in ("checkpoint", "cut_off") if name in options}
    chosen = entry.options(**options)
    seeds = [0 if shared else seed for seed in range(lanes)]
    # Searches of one seed differ in their densities.
    densities = [density + 0.1 * lane * shared for lane in range(lanes)]
    found: list[Pruner] = [
        entry.build(place.network(seed), (own,), chosen, recipe=RECIPE, seed=seed)
        for seed, own in zip(seeds, densities)
    ]
    found[0].join(found[1:])
    data = place.data(lanes, shared=shared, cut_off=how.get("cut_off"))
    fit(found[0], found[0].work(data), epochs=1, device=place.device, checkpoint=how.get("checkpoint"))
    return [({d: r.layers for d, r in p.found.items()}, p.curves, p.summary) for p in found]


def resumed(place: Place, job: Callable[..., Any], **how: Any) -> Any:
    """Does a job that is cut off in its second epoch and gone on with from its checkpoint."""
    with TemporaryDirectory() as folder:
        checkpoint = Checkpoint(files=LocalFiles(Path(folder)), name="job.ckpt", every=0.0)
        with contextlib.suppress(KeyboardInterrupt):
            job(place, checkpoint=checkpoint, cut_off=STEPS + 1, **how)
        begun = len(place.epochs)
        result = job(place, checkpoint=checkpoint, **how)
    assert set(place.epochs[begun:]) == {RECIPE.epochs - 1}, "the job was begun anew and not gone on with"
    return result


def train_on_pictures(place: Place) -> list[Any]:
    """Trains on pictures that are decoded for each batch anew."""
    draw, recipe = torch.Generator().manual_seed(0), dataclasses.replace(RECIPE, batch_size=4)
    with TemporaryDirectory() as root:
        for split, count in (("train", 4), ("val", 1)):
            for index in range(CLASSES * count):
                folder = Path(root, "imagenet", split, f"class {index % CLASSES}")
                folder.mkdir(parents=True, exist_ok=True)
                pixels = torch.randint(256, (20, 20, 3), generator=draw, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / f"{index}.png")
        options = {"root": root, "image_size": SIZE, "validation": 0.25}
        data = place.watched(load_data("imagenet", options, 0).to(place.device))
        network = place.network(0)
        trained = train_lanes([network], [random_mask(network, 0)], recipe, data, device=place.device)
    return [(lane.network.state_dict(), lane.curves) for lane in trained]


def batches() -> list[Batch]:
    """Batches as a user brings them."""
    draw = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 3, SIZE, SIZE, generator=draw), torch.arange(8) % CLASSES) for _ in range(STEPS)]


def search_on_batches(place: Place) -> list[Any]:
    """Searches for a ticket on batches that a user brings."""
    entry = pruners.find("cts", "method")
    found = entry.build(place.network(0), (0.3,), entry.options(**SEARCH), recipe=RECIPE, seed=0)
    data = place.watched(as_training_data(batches(), found.network, place.device))
    fit(found, found.work(data), epochs=1, device=place.device)
    return [{d: r.layers for d, r in found.found.items()}, found.curves, found.summary]


def find_mask(place: Place, method: str, at: str = "given", **options: Any) -> dict[str, Tensor]:
    """Finds a mask by the public function, for a network on the CPU (``given``) or on the device (``own``)."""
    network = place.network(0).to(place.device if at == "own" else "cpu")
    device = None if at == "own" else place.device
    return dict(pb.find_mask(network, method, density=0.3, data=batches(), device=device, recipe=RECIPE, **options))


def ticket(place: Place) -> list[Any]:
    """A ticket's metrics, variants, file and way through ``torch.nn.utils.prune``."""
    network = place.network(0).to(place.device)
    mask = random_mask(network, 0)
    ranking = Ranking.from_scores({name: w.detach().abs() for name, w in prunable_weights(network).items()})
    variants = ("original", "layer_shuffle", "invert", "reinit")
    found = [dict(variant_mask(ranking, 0.3, variant, 0)) for variant in variants]
    metrics = [mask_metrics(network, own, (3, SIZE, SIZE)) for own in (mask, mask.to(place.device))]
    with TemporaryDirectory() as folder:
        mask.to(place.device).save(Path(folder, "mask.safetensors"))
    mask.to(place.device).to_torch_prune(network)
    return [metrics, found, dict(Mask.from_torch_prune(network))]


@dataclass(frozen=True)
class Job:
    """A kind of work.

    Attributes:
        do: Does it.
        steps: True if it has loops of steps.
    """

    do: Callable[[Place], Any]
    steps: bool = True


def _trainings() -> Iterator[tuple[str, Job]]:
    for lanes in (1, 3):
        for precision in ("float32", "bfloat16", "tf32"):
            yield f"training x{lanes} {precision}", Job(lambda p, a=lanes, b=precision: train(p, a, b))
    yield "training vgg11", Job(lambda p: train(p, model="vgg11"))
    for lanes in (1, 2):
        yield f"training x{lanes} resumed", Job(lambda p, a=lanes: resumed(p, train, lanes=a))
        yield f"ltr x{lanes}", Job(lambda p, a=lanes: search(p, "ltr", a, density=0.5 if a == 1 else 0.8))
        yield f"ltr x{lanes} resumed", Job(lambda p, a=lanes: resumed(p, search, method="ltr", lanes=a, density=0.8))


def _scorings() -> Iterator[tuple[str, Job]]:
    scorings = {
        "snip": {}, "snip rounds": {"steps": 3, "micro_batch": 15}, "grasp": {"micro_batch": 15},
        "synflow": {"steps": 5}, "magnitude": {}, "random": {}, "random_erk": {}, "dense": {},
    }  # fmt: skip
    for name, options in scorings.items():
        method, density = name.split()[0], 1.0 if name == "dense" else 0.3
        yield name, Job(lambda p, m=method, d=density, o=options: search(p, m, density=d, **o), steps=False)


def _searches() -> Iterator[tuple[str, Job]]:
    for lanes in (1, 3):
        for objective in OBJECTIVES:
            how = {"lanes": lanes, "objective": objective, **SEARCH}
            yield f"cts x{lanes} {objective}", Job(lambda p, o=how: search(p, "cts", **o))
    yield "cts lagrange", Job(lambda p: search(p, "cts", control="lagrange", **SEARCH))
    yield "cts_kl x3 of one network", Job(lambda p: search(p, "cts_kl", 3, shared=True, **SEARCH))
    yield "cts bfloat16", Job(lambda p: search(p, "cts", precision="bfloat16", **SEARCH))


def _others() -> Iterator[tuple[str, Job]]:
    yield "training on pictures", Job(train_on_pictures)
    yield "cts on batches", Job(search_on_batches)
    yield "ticket", Job(ticket, steps=False)
    for method, options in EVERY.items():
        yield f"find_mask {method}", Job(lambda p, m=method, o=options: find_mask(p, m, **o), steps=False)
    yield "find_mask cts_kl on the device", Job(lambda p: find_mask(p, "cts_kl", "own", steps=3), steps=False)


JOBS = dict([*_trainings(), *_scorings(), *_searches(), *_others()])
STEPPING = [name for name, job in JOBS.items() if job.steps]
