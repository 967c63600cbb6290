"""How weights begin: one recipe for every network, drawn from an explicit generator."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

_NORMALISATIONS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


@torch.no_grad()
def initialise_(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draws the network's weights anew, in place, in module order.

    Weights of convolutions and linear layers are Kaiming normal (1502.01852: fan-in, ReLU), those of normalisation
    layers uniform on [0, 1), both as in 2512.07142; all biases are zero, where its classifier has torch's default.
    Parameters of other kinds of layers stay as they are.

    Args:
        network: On the generator's device.
        generator: The only source of randomness.

    Returns:
        The network itself.
    """
    for module in network.modules():
        if isinstance(module, (_ConvNd, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu", generator=generator)
        elif isinstance(module, _NORMALISATIONS) and module.weight is not None:
            module.weight.uniform_(0, 1, generator=generator)
        else:
            continue
        if module.bias is not None:
            module.bias.zero_()
    return network
