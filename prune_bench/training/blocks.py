"""Training data in blocks: many optimisation steps in one item of Lightning's.

Lightning costs more a step than a small network does, so a training step of ours is a block of
optimisation steps under manual optimisation (figures in ``benchmarks/README.md``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice

from prune_bench.data.protocol import Batch, TrainingData

STEPS_PER_BLOCK = 64


class Epochs:
    """Epochs of a data set as blocks of batches, for ``Trainer.fit``.

    Args:
        data: Where batches come from.
        batch_size: Images a batch.
        first: The epoch that Lightning's epoch 0 stands for; orders and augmentation are drawn by epoch.
        end: The epoch that is not begun any more.
    """

    def __init__(self, data: TrainingData, batch_size: int, *, first: int = 0, end: int = 0) -> None:
        self._data, self._batch_size, self._first, self._end, self._epoch = data, batch_size, first, end, 0
        self._begun: dict[int, Iterator[Batch]] = {}

    @property
    def sampler(self) -> Epochs:
        """Itself: Lightning calls ``set_epoch`` of a loader's sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-self._data.steps_per_epoch(self._batch_size) // STEPS_PER_BLOCK)

    def __iter__(self) -> Iterator[Iterator[Batch]]:
        # A generator, because a training that is gone on with asks for its iterator before it names the epoch.
        epoch = self._first + self._epoch
        batches = self._begun.pop(epoch, None) or self._batches(epoch)
        for left in reversed(range(len(self))):
            block = islice(batches, STEPS_PER_BLOCK)
            yield block if left else chain(block, self._begin(epoch + 1))

    def _batches(self, epoch: int) -> Iterator[Batch]:
        return self._data.epoch(epoch, self._batch_size, augment=True)

    def _begin(self, epoch: int) -> Iterator[Batch]:
        """No batch; draws the next epoch while a GPU still works on this one, whose loss is read afterwards.

        Only for data whose draws are from generators of their own: from the global one they would come out of order.
        """
        if epoch < self._end and getattr(self._data, "draws_apart", False):
            batches = self._batches(epoch)
            self._begun[epoch] = chain(list(islice(batches, 1)), batches)
        yield from ()


class Steps:
    """A given number of un-augmented batches, over as many epochs as that takes, as blocks.

    Args:
        data: Where batches come from.
        batch_size: Images a batch.
        steps: How many batches.
    """

    def __init__(self, data: TrainingData, batch_size: int, steps: int) -> None:
        self._data, self._batch_size, self._steps = data, batch_size, steps

    def __len__(self) -> int:
        return -(-self._steps // STEPS_PER_BLOCK)

    def __iter__(self) -> Iterator[Iterator[Batch]]:
        batches = islice(self._endless(), self._steps)
        return (islice(batches, STEPS_PER_BLOCK) for _ in range(len(self)))

    def _endless(self) -> Iterator[Batch]:
        epoch = 0
        while True:
            yield from _some(self._data.epoch(epoch, self._batch_size, augment=False), epoch)
            epoch += 1


def _some(batches: Iterable[Batch], epoch: int) -> Iterator[Batch]:
    empty = True
    for batch in batches:
        empty = False
        yield batch
    if empty:
        raise ValueError(f"the training data gave no batch in epoch {epoch}")
