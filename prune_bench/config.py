"""The schema of an experiment, read from YAML and ``key=value`` words and checked before anything runs.

Only what needs no registry is checked here; the names of methods, models and data sets and their options are
checked when an experiment is expanded (:mod:`prune_bench.sweep.cells`).
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from fractions import Fraction as Ratio
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from prune_bench.config_checks import check_experiment
from prune_bench.errors import ConfigError
from prune_bench.foreign import read_run_values
from prune_bench.options import (
    AboveZero,
    BelowOne,
    Fraction,
    NonNegative,
    Positive,
    Several,
    ZeroOrMore,
    later,
    read_options,
)
from prune_bench.places import expanded
from prune_bench.recipes import lay_under
from prune_bench.untrusted import without_user

log = logging.getLogger(__name__)
_HERE_ONLY = ("output", "store", "wandb", "devices", "executor")
Variant = Literal["original", "layer_shuffle", "reinit", "invert"]
PruneAt = Literal["init", "rewind"]
Precision = Literal["float32", "tf32", "bfloat16"]
Replay = Literal["auto", "on", "off"]
RecipeName = Literal["none", "cts_2025"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A named thing and its options: ``{name: resnet20, width: 16}``, or just ``resnet20``."""

    name: str
    """What it is called in the registry."""
    options: dict[str, Any] = field(default_factory=dict)
    """Its own options; `prune-bench models`, `datasets` and `methods` list them."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    The defaults follow the text of 2512.07142 (appendix), and differ from its authors' code: ``docs/published.md``.
    """

    epochs: Positive = 160
    """Epochs of a whole training; a network rewound to epoch k trains for the epochs left."""
    batch_size: Positive = 512
    """Images a step."""
    lr: AboveZero = 0.1
    """Learning rate at the start."""
    momentum: BelowOne = 0.9
    """SGD momentum."""
    weight_decay: ZeroOrMore = 1e-3
    """L2 coefficient, on every parameter."""
    milestones: tuple[NonNegative, ...] = (80, 120)
    """Epochs after which the learning rate is multiplied by `lr_decay`."""
    lr_decay: Fraction = 0.1
    """Factor at each milestone."""
    clip_norm: AboveZero | None = 2.0
    """Largest norm of the whole gradient, or null for no clipping."""
    clip_over: Literal["kept", "all"] = later("kept")
    """Weights whose gradients make up that norm: those that live, or the pruned ones too. `train.clip` may be written
    for both, as `{norm: 2.0, over: all}`."""
    loss_reduction: Literal["mean", "sum"] = later("mean")
    """How a batch's losses become one that is descended on; with `norm_batch`, the sum is over each piece, and the
    mean is taken of the pieces."""
    rewind_epoch: NonNegative = 9
    """Epochs of dense training before a ticket of `prune_at: rewind` is looked for."""
    eval_batch_size: Positive = 512
    """Images in an evaluation batch: with batch statistics it is part of what is measured."""
    norm_batch: Several | None = later(None)
    """Images whose statistics batch normalisation takes, in training and in evaluation: each batch goes through the
    network in the fewest equal pieces of at most so many. Null for whole batches."""
    precision: Precision = later("float32")
    """Arithmetic of the passes in training; `tf32` rounds products on a GPU, `bfloat16` takes convolutions and
    products in that. Weights, losses, evaluation and saliency scores are float32 in any case."""
    pack: Positive | Literal["auto"] = "auto"
    """Cells that are trained or searched side by side in one process, at most; 1 for each by itself. `auto` packs
    small networks on the CPU, and on a GPU what `prune-bench doctor` has found to pay. It changes nothing but the
    order of floating-point sums."""


@dataclass(frozen=True, kw_only=True)
class Devices:
    """Where cells run. Nothing here changes a result on the same kind of device."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto` takes the GPUs there are, else the CPU. An NVIDIA GPU that is there and cannot be used is an error."""
    count: Positive | None = None
    """How many devices (CPU: processes) to use; null for all there are, of cores as many as a container may use."""
    cells_per_gpu: Positive = 1
    """Cells that share a GPU; each is a process of its own."""
    per_cell: Positive = 1
    """Devices that share each batch of one cell, for networks too large to be quick on one; a process each. It
    changes nothing but the order of floating-point sums, and must divide every batch size. Above 1 it excludes
    `cells_per_gpu` and `train.pack` above 1, which put small networks together; `train.pack: auto` packs nothing."""
    replay: Replay = "auto"
    """Steps recorded once as a CUDA graph and replayed: the same operators and bits, launched at once. `auto` does so
    where the machine's profile says that it holds, `on` on every GPU, `off` never. A network that cannot be recorded
    runs step by step, with a word in the stage's log."""
    threads: Positive = 1
    """CPU threads of one cell; the same under every executor, because it can change the last bit of a sum."""
    address: str | None = None
    """Ray cluster for `executor=ray`: `host:port`, or `auto` on one of its machines; null for a Ray of its own."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a sweep may spend; nothing here changes a result."""

    stage_seconds: AboveZero | None = None
    """Seconds a stage may take before it counts as failed; null for no limit. Of cells side by side, the sum."""
    checkpoint_seconds: AboveZero = 120.0
    """Seconds of a training, or of an LTR level, between two checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Wandb:
    """Mirroring to Weights & Biases; the run's own store stays the truth."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """`auto` is online when there is an API key, else offline (sent later by `prune-bench sync`)."""
    project: str = "prune-bench"
    """Project the runs go to."""
    entity: str | None = None
    """Team or user; null for the account's default."""
    patience: AboveZero = 120.0
    """Seconds a sweep waits at its end for W&B to take what is left, and W&B itself for a slow call."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A grid of methods, densities, variants, seeds and pruning points, for one model, data set and recipe."""

    name: str
    """What the experiment is called; W&B groups its runs by it."""
    output: str = ""
    """Folder of the run; `runs/<name>` if empty. A leading `~` is the user's home."""
    store: str = ""
    """Where artifacts go: a folder or an fsspec URL that all workers see; `<output>/store` if empty."""
    model: Choice = field(default_factory=lambda: Choice(name="resnet8", options={"width": 8}))
    """Network: a name, or a mapping of `name` and its options."""
    data: Choice = field(default_factory=lambda: Choice(name="digits"))
    """Data set: a name, or a mapping of `name` and its options."""
    recipe: RecipeName = "none"
    """`cts_2025` is what the published tables of 2512.07142 were made with: it sets all that this file leaves out of
    `train`, the network's options, `data.validation` and the options of concrete searches."""
    train: Recipe = field(default_factory=Recipe)
    """Training recipe."""
    prune_at: tuple[PruneAt, ...] = ("init",)
    """Which state tickets are found and trained from."""
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Label to options; the label is the method's name unless `method:` among the options names it."""
    densities: tuple[Fraction, ...] = (0.05,)
    """Kept fractions in (0, 1], as a list or as `{base: 0.8, powers: [2, 4]}`."""
    variants: tuple[Variant, ...] = ("original",)
    """Sanity variants of every ticket."""
    seeds: tuple[NonNegative, ...] = (0,)
    """One whole repetition each."""
    devices: Devices = field(default_factory=Devices)
    """Where cells run."""
    executor: Literal["auto", "inline", "processes", "ray"] = "auto"
    """`inline` is this process; `auto` takes that for one CPU, else one process a device; `ray` is for clusters."""
    limits: Limits = field(default_factory=Limits)
    """What a sweep may spend."""
    wandb: Wandb = field(default_factory=Wandb)
    """Mirroring to Weights & Biases."""

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(expanded(self.output or f"runs/{self.name}"))

    @property
    def store_location(self) -> str:
        """Where artifacts go."""
        return expanded(self.store) if self.store else str(self.folder / "store")


def load_experiment(file: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Reads an experiment file and lays ``key=value`` words over it.

    The file of a run's folder may have come from elsewhere: nothing in it is resolved.

    Raises:
        ConfigError: The file is missing or no YAML mapping, a word is no ``key=value``, or the result is no
            experiment.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        near = [str(p) for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise ConfigError("experiment", str(file), "is not a file", allowed=near)
    if path.with_name("cells.json").is_file():
        return make_experiment(read_run_values(path), overrides)
    try:
        tree = OmegaConf.load(path)
        values = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except Exception as error:  # yaml's and omegaconf's errors share no base
        raise ConfigError("experiment", str(file), f"cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError("experiment", str(file), "is not a YAML mapping of keys to values")
    values.setdefault("name", path.stem)
    return make_experiment({str(key): value for key, value in values.items()}, overrides)


def portable_values(experiment: Experiment) -> dict[str, Any]:
    """The experiment as plain values, without what belongs to one machine or person: folders, devices, W&B."""
    values = {key: value for key, value in experiment_values(experiment).items() if key not in _HERE_ONLY}
    values["data"] = {key: value for key, value in values["data"].items() if key not in ("root", "workers")}
    return values


def make_experiment(values: Mapping[str, Any], overrides: Sequence[str] = ()) -> Experiment:
    """An :class:`Experiment` from plain values and ``key=value`` words.

    Raises:
        ConfigError: Something in it is not as the schema says.
    """
    try:
        tree = OmegaConf.create(_spelled_out({"model": "resnet8", "data": "digits", **_plain(values)}))
    except OmegaConfBaseException as error:
        raise ConfigError(error.full_key or "experiment", None, f"cannot be used: {error.msg}") from None
    for word in overrides:
        key, value = _parse_word(word)
        try:
            OmegaConf.update(tree, key, _spelled_out({key: value})[key], merge=False, force_add=True)
        except ConfigError:
            raise
        except (OmegaConfBaseException, TypeError, ValueError) as error:
            raise ConfigError(key, value, f"cannot be set: {error}") from None
    try:
        plain: Any = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError("override", list(overrides), f"cannot be filled in: {error}") from None
    if isinstance(devices := plain.get("devices"), dict) and isinstance(replay := devices.get("replay"), bool):
        devices["replay"] = "on" if replay else "off"  # bare words that YAML reads as true and false
    if isinstance(train := plain.get("train"), dict) and isinstance(clip := train.get("clip"), dict):
        plain["train"] = {key: value for key, value in train.items() if key != "clip"}
        plain["train"] |= {f"clip_{key}": value for key, value in clip.items()}
    plain = lay_under(plain)
    for key in ("store", "output"):
        if isinstance(plain.get(key), str) and (bare := without_user(plain[key])) != plain[key]:
            log.warning("%s: user name and password are left out of %s: give them by the environment", key, bare)
            plain[key] = bare
    for key in ("model", "data"):
        if isinstance(choice := plain[key], dict):
            plain[key] = {"options": {k: v for k, v in choice.items() if k != "name"}}
            plain[key] |= {"name": choice["name"]} if "name" in choice else {}
    experiment = read_options(Experiment, {str(key): value for key, value in plain.items()}, "")
    check_experiment(experiment)
    return experiment


def experiment_values(experiment: Experiment) -> dict[str, Any]:
    """The experiment as plain values that :func:`make_experiment` reads back to an equal one."""
    values = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(experiment).items()}
    for key in ("model", "data"):
        values[key] = {"name": values[key]["name"], **values[key]["options"]}  # type: ignore[call-overload]
    return values


def save_experiment(experiment: Experiment, path: Path) -> None:
    """Writes the experiment as YAML, whole or not at all: others may be reading it."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    OmegaConf.save(OmegaConf.create(experiment_values(experiment)), aside)
    aside.replace(path)


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy and torch, fractions, decimals, tuples and paths as YAML would give them."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (Ratio, Decimal)):
        return float(value)
    return str(value) if isinstance(value, Path) else value


def _spelled_out(values: Mapping[str, Any]) -> dict[str, Any]:
    """Short spellings written out: a bare name, a bare number, a list of methods, powers of a base."""
    out = dict(values)
    for key in ("model", "data"):
        if isinstance(out.get(key), str):
            out[key] = {"name": out[key]}
    if isinstance(methods := out.get("methods"), str):
        out["methods"] = {methods: {}}
    elif isinstance(methods, Sequence):
        out["methods"] = {str(name): {} for name in methods}
    elif isinstance(methods, Mapping):
        out["methods"] = {str(name): {} if options is None else options for name, options in methods.items()}
    if isinstance(densities := out.get("densities"), Mapping):
        out["densities"] = _powers(densities)
    for key in ("densities", "seeds", "variants", "prune_at"):
        if isinstance(out.get(key), (str, int, float)):
            out[key] = [out[key]]
    return out


def _powers(densities: Mapping[str, Any]) -> list[float]:
    if set(densities) != {"base", "powers"}:
        raise ConfigError("densities", dict(densities), "needs exactly the keys base and powers")
    base, powers = densities["base"], densities["powers"]
    numbers = [base, *powers] if isinstance(powers, Sequence) and not isinstance(powers, str) else [None]
    if not all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers):
        raise ConfigError("densities", dict(densities), "needs a number as base and a list of numbers as powers")
    try:
        found = [float(base) ** power for power in powers]
    except (OverflowError, ZeroDivisionError) as error:
        raise ConfigError("densities", dict(densities), f"cannot be computed: {error}") from None
    if any(isinstance(density, complex) for density in found):
        raise ConfigError("densities", dict(densities), "needs a base above 0")
    return found


def _parse_word(word: str) -> tuple[str, Any]:
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise ConfigError("override", word, "is not of the form key=value, for example seeds=[0,1]")
    if re.fullmatch(r"[-+]?0\d+", text):
        raise ConfigError(key, text, "would be read as an octal number: leave out the leading zeros")
    try:
        tree = OmegaConf.from_dotlist([f"value={text}"])
        plain: Any = OmegaConf.to_container(tree)
    except Exception as error:  # yaml's and omegaconf's errors share no base
        raise ConfigError(key, text, f"is not valid YAML: {error}") from None
    return key, plain["value"]
