"""The one metric vocabulary: what results, tables and W&B call a thing, and what it is counted in."""

from __future__ import annotations

METRICS: dict[str, str] = {
    "test/accuracy": "fraction (0 to 1) of test images classified rightly after the last epoch",
    "test/loss": "mean cross-entropy on the test set after the last epoch, in nats",
    "train/loss": "mean cross-entropy over an epoch's training batches, in nats",
    "validation/accuracy": "fraction (0 to 1) of validation images classified rightly",
    "validation/loss": "mean cross-entropy on the validation set, in nats",
    "kept": "weights that the mask keeps",
    "total": "prunable weights: those of convolutions and linear layers",
    "density": "kept / total, a fraction",
    "effective_density": "kept weights on a path from input to output / total (2107.02306); none if not known",
    "collapsed": "true when no kept weight lies on a path from input to output; none if not known",
    "empty_layers": "layers of which the mask keeps nothing",
    "flops/dense": "floating-point operations of one forward pass of one sample without a mask; a multiply-add is 2",
    "flops/sparse": "the same with every layer's count times its density",
    "search/tied": "equal scores among which the ticket's cut falls, so that the weights' order decides; 0 for none",
    "search/seconds": "wall-clock seconds spent finding the mask; searches side by side share theirs evenly",
    "search/dense_epochs": "cost of finding the mask, in epochs of dense training",
    "search/kept_retention": "mean probability, at the search's end, of the weights it keeps (concrete searches)",
    "search/hard_objective": "the search's objective under the hard mask that came out of it (concrete searches)",
    "rewind/dense_epochs": "cost of reaching the rewind state, in epochs of dense training",
    "train/seconds": "wall-clock seconds spent training the sparse network; cells side by side share theirs evenly",
    "train/dense_epochs": "cost of training the sparse network, in epochs of dense training",
    "memory/peak_bytes": "most device memory allocated at once, in bytes",
}
"""Every metric's name, with its meaning and unit."""
