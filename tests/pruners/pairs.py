"""Pairs made by hand."""

import torch

from prune_bench.mask import prunable_weights
from prune_bench.pruners.pair import Dense, Layout, Pair


def pair_of(network, mask, lanes=1):
    """A network, or a packed one, and itself under a mask given by layer."""
    weights = {name: weight.detach() for name, weight in prunable_weights(network).items()}
    layout = Layout(weights, lanes)
    flat = (layout.flatten(layers) for layers in (weights, mask))
    return Pair(network, layout, *flat, Dense.of(network, range(lanes), torch.device("cpu")))
