"""LTR: lottery tickets by iterative magnitude pruning with weight rewinding (1803.03635, 1912.05671)."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from prune_bench.config import Recipe
from prune_bench.data.protocol import Batch, TrainingData
from prune_bench.mask import Mask, prunable_weights
from prune_bench.options import BelowOne, Positive
from prune_bench.packing import pack
from prune_bench.parallel import ranks
from prune_bench.pruners.base import Pruner, Sharing, Ticket
from prune_bench.pruners.registry import pruners
from prune_bench.ranking import Ranking
from prune_bench.training.descent import Descent
from prune_bench.training.replay import Replayed, record_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LtrOptions:
    """Options of lottery-ticket rewinding."""

    cut: BelowOne = 0.2
    """Part of the weights still kept that each level prunes."""
    epochs: Positive | None = None
    """Epochs of training a level; null for what the recipe has left after the rewind point."""


@pruners.add(
    "ltr", options=LtrOptions, source="1912.05671", summary="Train, prune the smallest |w|, rewind, repeat: a chain."
)
class LotteryTicketRewinding(Pruner):
    """From the rewind state, trains to the end, keeps the largest |w| of those kept, rewinds, and goes on.

    One chain passes every density (1 - cut)**j; a density off that grid is met by a last, smaller cut
    (1912.05671, section 3).
    """

    trains = True
    _done = 0
    _kept: dict[str, Any] | None = None

    @classmethod
    def sharing(cls, options: Any) -> Sharing:
        """One chain serves every density it passes."""
        return "chain"

    @classmethod
    def levels(cls, options: Any, density: float) -> tuple[float, ...]:
        """(1 - cut)**j down to ``density``, which ends it on the grid or off it."""
        levels, j = [], 1
        # A level within a thousandth of the density asked for is the density asked for, not a level before it.
        while options.cut > 0 and (level := (1 - options.cut) ** j) > density * 1.001:
            levels.append(level)
            j += 1
        return (*levels, density) if density < 1 else (1.0,)

    @classmethod
    def length(cls, options: Any, recipe: Recipe, samples: int) -> float:
        """One level is a training."""
        return float(options.epochs or recipe.epochs)

    @classmethod
    def step_images(cls, options: Any, recipe: Recipe) -> int | None:
        """The same level of several seeds can run side by side."""
        return recipe.batch_size

    @property
    def resumable(self) -> bool:
        """Within its first level: a sweep's runs have no other."""
        return not self.found

    def work(self, data: TrainingData) -> Iterable[tuple[int, float, bool, Iterator[Batch]]]:
        """Epochs of every level's training: its number, its density, whether it ends the level, and its batches."""
        # A generator, so that it asks how many are done when a checkpoint has been read.
        yield from islice(self._epochs(data), self._done, None)

    def _epochs(self, data: TrainingData) -> Iterator[tuple[int, float, bool, Iterator[Batch]]]:
        begun = 1.0 if self.start is None else self.start.density
        levels = {level for density in self.densities for level in self.levels(self.options, density)}
        last = self.first_epoch + (self.options.epochs or self.recipe.epochs - self.first_epoch)
        size = self.recipe.batch_size
        if max(levels) < 1.0 or len(levels) > 1:
            data.steps_per_epoch(size)  # a stream without an end has no epochs, and says so here
        for level in sorted((level for level in levels if level < begun or level == 1.0), reverse=True):
            if level == 1.0:
                yield (self.first_epoch, level, True, iter([]))
                continue
            for epoch in range(self.first_epoch, last):
                yield (epoch, level, epoch == last - 1, data.epoch(epoch, size, augment=True))

    def on_train_start(self) -> None:
        """Keeps the rewind state: weights, normalisation, everything the network holds."""
        # Lightning has moved this search to the device, and not those that run with it.
        self._packed = pack([lane.network.to(self.device) for lane in self.lanes])
        self._rewind = copy.deepcopy(self._packed.state_dict())
        self._rankings, self._masks = [], []
        for lane in self.lanes:
            full = {name: torch.zeros_like(weight) for name, weight in lane._weights().items()}
            start = lane.start or Ticket(Ranking.from_scores(full), 1.0)
            self._rankings.append(start.ranking.to(self.device))
            self._masks.append(start.mask.to(self.device))
        self._descent: Descent | None = None
        if self._kept is not None:
            self._packed.load_state_dict(self._kept["network"])
            self._descent = self._descend()
            self._descent.optimizer.load_state_dict(self._kept["optimizer"])
            for lane, (forwards, backwards) in zip(self.lanes, self._kept["passes"]):
                lane.forwards, lane.backwards = forwards, backwards

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds how far the level is."""
        checkpoint["level"] = {
            "done": self._done,
            "network": self._packed.state_dict(),
            "optimizer": self._descent and self._descent.optimizer.state_dict(),
            "passes": [(lane.forwards, lane.backwards) for lane in self.lanes],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on from there; its own network stays as it is, for that is what is rewound to."""
        self._kept, checkpoint["state_dict"] = checkpoint["level"], self.state_dict()
        self._done = checkpoint["level"]["done"]

    def training_step(self, item: tuple[int, float, bool, Iterator[Batch]], index: int) -> None:
        """An epoch; at a level's end, prunes to its density and rewinds."""
        epoch, level, ends, batches = item
        self._descent = self._descent or self._descend()
        if self._descent.begin_epoch(epoch):
            self._step.forget()
        for x, y in batches:
            self._step(x, y)
            samples = y.shape[-1] * ranks()
            for lane in self.lanes:
                lane.forwards, lane.backwards = lane.forwards + samples, lane.backwards + samples
        self._done += 1
        if ends:
            self._prune(level)

    def _descend(self) -> Descent:
        descent = Descent(self._packed, Mask.side_by_side(self._masks), self.recipe, lanes=len(self.lanes))
        self._step = Replayed(descent.step, record_of(self.device))
        return descent

    def _prune(self, level: float) -> None:
        lengths = {name: weight.detach().abs() for name, weight in prunable_weights(self._packed).items()}
        log.info("prunes to density %.4g", level)
        for i, lane in enumerate(self.lanes):
            magnitudes = {name: values.chunk(len(self.lanes))[i] for name, values in lengths.items()}
            self._rankings[i] = lane.found[level] = self._rankings[i].refine(magnitudes, self._masks[i].kept)
            self._masks[i] = self._rankings[i].mask(level)
        self._packed.load_state_dict(self._rewind)
        self._step.forget()
        self._descent = None
