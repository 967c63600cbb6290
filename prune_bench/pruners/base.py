"""The interface every pruning method stands behind.

A pruner is a LightningModule: a Trainer runs it over its own :meth:`Pruner.work`, and afterwards it holds a ranking
of the prunable weights for every density asked for. To add a method, subclass :class:`ScoringPruner` (or
:class:`Pruner`) in a file of its own and register it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from typing_extensions import Self

from prune_bench.config import PruneAt, Recipe
from prune_bench.data.protocol import Batch, TrainingData
from prune_bench.errors import ConfigError, PruneBenchError
from prune_bench.halves import widen_
from prune_bench.hold import released_copy
from prune_bench.mask import Mask, Scores, prunable_weights
from prune_bench.options import Positive
from prune_bench.parallel import share, sum_
from prune_bench.ranking import Ranking
from prune_bench.wrappers import as_logits, unwrapped

Sharing = Literal["densities", "chain", "nothing"]
"""What one run of a pruner serves: all densities, all that it passes on its way down, or its own density only."""


@dataclass(frozen=True)
class Ticket:
    """What a pruner found at one density."""

    ranking: Ranking
    density: float

    @property
    def mask(self) -> Mask:
        """The weights that are kept."""
        return self.ranking.mask(self.density)


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """A method without options."""


class Pruner(LightningModule):
    """Finds tickets: for each density, the weights worth keeping.

    A pruner works on its own copy of the network; the caller's stays bit for bit as it was. After
    ``trainer.fit(pruner, pruner.work(data))`` its :meth:`tickets` are found.

    Args:
        network: The network as it is at the pruning point.
        densities: Kept fractions wanted, each in (0, 1].
        options: The method's own options, an instance of its registered dataclass.
        recipe: How the experiment trains; for methods that train.
        seed: Names every random draw of the method.
        first_epoch: The epoch of the recipe that the network stands at; for methods that train.
        start: The ticket to go on from, for methods that are chains.

    Attributes:
        prune_at: Where it may prune.
        only_density: The one density it can be asked for, or None.
        ordered: Whether its ranking means anything: of a random ticket a shuffle or an inversion is another one.
        trains: Whether it trains by the experiment's recipe, so that its tickets depend on that.

    Raises:
        ValueError: The network has nothing prunable, or is pruned or parametrised already.
    """

    prune_at: ClassVar[tuple[PruneAt, ...]] = ("init", "rewind")
    only_density: ClassVar[float | None] = None
    ordered: ClassVar[bool] = True
    trains: ClassVar[bool] = False

    def __init__(
        self,
        network: nn.Module,
        densities: Sequence[float],
        options: Any,
        *,
        recipe: Recipe | None = None,
        seed: int = 0,
        first_epoch: int = 0,
        start: Ticket | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        prunable_weights(network)  # or what is wrong with them
        self.network = _private_copy(network).requires_grad_(True)
        self.options, self.recipe, self.seed = options, recipe or Recipe(), seed
        widen_(self.network)
        self.densities, self.first_epoch, self.start = tuple(densities), first_epoch, start
        self.found: dict[float, Ranking] = {}
        self.curves: list[dict[str, float]] = []
        self.summary: dict[str, float] = {}
        self.forwards = self.backwards = 0  # samples passed through the whole network
        self._beside: list[Any] = []

    @classmethod
    def step_images(cls, options: Any, recipe: Recipe) -> int | None:
        """Images of one step, of methods whose searches can run side by side; None of those whose cannot."""
        return None

    def join(self, others: Sequence[Self]) -> None:
        """Lets other searches of the same options run with this one; each keeps what it finds.

        Afterwards only this one is run, on the lanes' data side by side.
        """
        self._beside = list(others)

    @property
    def lanes(self) -> list[Any]:
        """This search and those beside it; made anew, because a search that held itself would outlive its use."""
        return [self, *self._beside]

    @classmethod
    def sharing(cls, options: Any) -> Sharing:
        """What one run serves; decides which stages a sweep's cells have in common."""
        return "nothing"

    @classmethod
    def levels(cls, options: Any, density: float) -> tuple[float, ...]:
        """The densities a chain passes on its way to ``density``, the last one included."""
        return (density,)

    @classmethod
    def length(cls, options: Any, recipe: Recipe, samples: int) -> float:
        """About how long one run, or one level of a chain, is, in dense epochs; a sweep orders its work by it."""
        return 0.1

    @property
    def resumable(self) -> bool:
        """Whether a checkpoint after this item of its work holds all it needs to go on; asked after every one."""
        return False

    @abstractmethod
    def work(self, data: TrainingData) -> Iterable[Any]:
        """The items of ``training_step``: what Lightning calls a dataloader."""

    def configure_optimizers(self) -> None:
        """No optimiser of Lightning's: what is optimised, if anything, is the method's own affair."""

    def tickets(self) -> dict[float, Mask]:
        """The mask found for each density; of exactly round(density x N) weights."""
        return {density: ranking.mask(density) for density, ranking in self.found.items()}

    def dense_epochs(self, samples: int) -> float:
        """What the search cost in epochs of dense training.

        A backward pass counts as two forward passes, and one epoch as one forward and one backward pass of all
        ``samples``; this holds across machines, as seconds do not.
        """
        return (self.forwards + 2 * self.backwards) / (3 * samples)

    def _weights(self) -> dict[str, Tensor]:
        return prunable_weights(self.network)


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """Options of methods that score weights on a few samples."""

    samples_per_class: Positive = 10
    """Samples of each class in the batch that is scored."""
    micro_batch: Positive | None = None
    """Samples that go through the network at once; null for all. Only batch statistics depend on it."""


def _private_copy(network: nn.Module) -> nn.Module:
    """The network without its wrappers and without a held mask, and giving logits alone.

    Raises:
        PruneBenchError: It cannot be copied.
    """
    try:
        copied = released_copy(unwrapped(network))
    except Exception as error:  # locks, open files, tensors with a graph: whatever a module may hold
        raise PruneBenchError(
            f"{type(network).__name__} cannot be copied: {type(error).__name__}: {error}"
        ) from error
    copied.register_forward_hook(as_logits)
    return copied


class ScoringPruner(Pruner):
    """Scores every weight, once or in rounds; a subclass writes :meth:`score`."""

    @abstractmethod
    def score(self, batches: list[Batch]) -> Scores:
        """A score for every prunable weight of ``self.network``: the higher, the longer it is kept.

        Args:
            batches: Micro-batches of the samples to score on, on the network's device.
        """

    @classmethod
    def rounds(cls, options: Any) -> int:
        """How many times the network is scored on its way to its density."""
        return 1

    @classmethod
    def sharing(cls, options: Any) -> Sharing:
        """One scoring ranks the weights for all densities; scored in rounds, each density is its own."""
        return "densities" if cls.rounds(options) == 1 else "nothing"

    def work(self, data: TrainingData) -> Iterable[tuple[float, int, list[Batch]]]:
        """For each density and round, the round's number and the batches to score on."""
        batches = self.batches(data)
        rounds = self.rounds(self.options)
        densities = self.densities if rounds > 1 else self.densities[:1]
        return [(density, t, batches) for density in densities for t in range(1, rounds + 1)]

    def batches(self, data: TrainingData) -> list[Batch]:
        """A class-balanced sample of the training data, cut into micro-batches."""
        x, y = data.balanced(self.options.samples_per_class)
        size = self.options.micro_batch or len(y)
        return list(zip(x.split(size), y.split(size)))

    def training_step(self, item: tuple[float, int, list[Batch]], index: int) -> None:
        """One round: scores the network as it is masked by now, then prunes to density**(t / rounds)."""
        density, t, batches = item
        rounds = self.rounds(self.options)
        if t == 1:
            self._dense = {name: w.detach().clone() for name, w in self._weights().items()}
            self._mask = Mask.full(self.network)
            self._ranking: Ranking | None = None
        scores = self._score(batches)
        ranking = (
            Ranking.from_scores(scores) if self._ranking is None else self._ranking.refine(scores, self._mask.kept)
        )
        self._ranking, self._mask = ranking, ranking.mask(density ** (t / rounds))
        if t < rounds:
            self._mask.apply_(self.network)
            return
        served = self.densities if rounds == 1 else (density,)
        self.found |= dict.fromkeys(served, ranking)
        with torch.no_grad():
            for name, weight in self._weights().items():
                weight.copy_(self._dense[name])

    def _score(self, batches: list[Batch]) -> Scores:
        try:
            return self.score(batches)
        except ValueError as error:
            sizes = [len(y) for _, y in batches]
            if 1 not in sizes or "more than 1 value per channel" not in str(error):
                raise
            size = getattr(self.options, "micro_batch", None)
            raise ConfigError(
                "micro_batch", size, f"leaves a batch of one of the {sum(sizes)} samples, and batch normalisation "
                "needs two: choose another size, or null for all at once",
            ) from None  # fmt: skip

    def gradients(self, batches: list[Batch], loss: Any, **how: Any) -> list[dict[str, Tensor]]:
        """The gradient of each micro-batch's share of the mean loss, with respect to the prunable weights.

        Args:
            batches: Micro-batches; each weighs by its number of samples, so that their sum is the gradient of the
                mean over all samples.
            loss: Function of (logits, labels) that gives the mean loss of a batch.
            how: Passed to ``torch.autograd.grad``.
        """
        weights = self._weights()
        samples = sum(len(y) for _, y in batches)
        shares = []
        for x, y in batches:
            own = share(y)
            value = loss(self.network(share(x)), own) * (len(own) / samples)
            grads = torch.autograd.grad(value, list(weights.values()), allow_unused=True, **how)
            shares.append({n: torch.zeros_like(w) if g is None else g for (n, w), g in zip(weights.items(), grads)})
            sum_(list(shares[-1].values()))
            self.forwards, self.backwards = self.forwards + len(y), self.backwards + len(y)
        return shares


def total(shares: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The sum of micro-batches' gradients, weight by weight."""
    return {name: torch.stack([share[name] for share in shares]).sum(0) for name in shares[0]}
