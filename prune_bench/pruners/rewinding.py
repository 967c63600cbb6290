"""LTR: lottery tickets by iterative magnitude pruning with weight rewinding (1803.03635, 1912.05671)."""

from __future__ import annotations

import copy
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
from prune_bench.pruners.base import Pruner, Sharing, Ticket
from prune_bench.pruners.registry import pruners
from prune_bench.ranking import Ranking
from prune_bench.training.blocks import STEPS_PER_BLOCK
from prune_bench.training.descent import Descent


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

    def work(self, data: TrainingData) -> Iterable[tuple[int, float, bool, Iterator[Batch]]]:
        """Blocks of every level's training: its epoch, its density, whether it ends the level, and its batches."""
        begun = 1.0 if self.start is None else self.start.density
        levels = {level for density in self.densities for level in self.levels(self.options, density)}
        last = self.first_epoch + (self.options.epochs or self.recipe.epochs - self.first_epoch)
        size = self.recipe.batch_size
        for level in sorted((level for level in levels if level < begun or level == 1.0), reverse=True):
            if level == 1.0:
                yield (self.first_epoch, level, True, iter([]))
                continue
            for epoch in range(self.first_epoch, last):
                batches = list_blocks(data.epoch(epoch, size, augment=True), data.steps_per_epoch(size))
                for k, block in enumerate(batches, start=1):
                    yield (epoch, level, epoch == last - 1 and k == len(batches), block)

    def on_train_start(self) -> None:
        """Keeps the rewind state: weights, normalisation, everything the network holds."""
        self._packed = pack([lane.network for lane in self.lanes]).to(self.device)
        self._rewind = copy.deepcopy(self._packed.state_dict())
        self._rankings, self._masks = [], []
        for lane in self.lanes:
            full = {name: torch.zeros_like(weight) for name, weight in lane._weights().items()}
            start = lane.start or Ticket(Ranking.from_scores(full), 1.0)
            self._rankings.append(start.ranking.to(self.device))
            self._masks.append(start.mask.to(self.device))
        self._descent: Descent | None = None

    def training_step(self, item: tuple[int, float, bool, Iterator[Batch]], index: int) -> None:
        """A block of optimisation steps; at a level's end, prunes to its density and rewinds."""
        epoch, level, ends, block = item
        if self._descent is None:
            self._descent = Descent(self._packed, Mask.side_by_side(self._masks), self.recipe, lanes=len(self.lanes))
        self._descent.begin_epoch(epoch)
        for x, y in block:
            self._descent.step(x, y)
            for lane in self.lanes:
                lane.forwards, lane.backwards = lane.forwards + y.shape[-1], lane.backwards + y.shape[-1]
        if ends:
            self._prune(level)

    def _prune(self, level: float) -> None:
        lengths = {name: weight.detach().abs() for name, weight in prunable_weights(self._packed).items()}
        for i, lane in enumerate(self.lanes):
            magnitudes = {name: values.chunk(len(self.lanes))[i] for name, values in lengths.items()}
            self._rankings[i] = lane.found[level] = self._rankings[i].refine(magnitudes, self._masks[i].kept)
            self._masks[i] = self._rankings[i].mask(level)
        self._packed.load_state_dict(self._rewind)
        self._descent = None


def list_blocks(batches: Iterator[Batch], steps: int) -> list[Iterator[Batch]]:
    """An epoch's batches as blocks that draw from one iterator, to be used in their order."""
    return [islice(batches, STEPS_PER_BLOCK) for _ in range(-(-steps // STEPS_PER_BLOCK))]
