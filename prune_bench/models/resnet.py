"""ResNets for small images (1512.03385, section 4.2).

Where the shape changes, the shortcut is a 1x1 convolution (``conv1``), channels of zeros as in that paper (``pad``),
or a 3x3 convolution as in the code of 2512.07142 (``conv3``). That is another network: a ResNet-20 then has 291,376
prunable weights and not 270,896.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor, nn
from torch.nn import functional as F

from prune_bench.models.layers import batch_norm
from prune_bench.models.registry import models
from prune_bench.options import Positive, later

Shortcut = Literal["conv1", "conv3", "pad"]


@dataclass(frozen=True, kw_only=True)
class ResNetOptions:
    """Options of the CIFAR ResNets."""

    width: Positive = 16
    """Channels of the first stage; the second and third have two and four times as many."""
    shortcut: Shortcut = later("conv1")
    """Where the shape changes: a 1x1 convolution, a 3x3 one as the code of 2512.07142 has it, both with
    normalisation, or every second pixel and channels of zeros (1512.03385, option A)."""


class PadShortcut(nn.Module):
    """Every ``stride``-th pixel, and channels of zeros after those there are; of each lane of a packed network.

    Args:
        inputs: Channels that come in, of one lane.
        outputs: Channels that go out, of one lane.
        stride: Step in pixels.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.inputs, self.outputs, self.stride = inputs, outputs, stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, lanes x inputs, H, W] to [B, lanes x outputs, H / stride, W / stride]."""
        lanes: Tensor = x[:, :, :: self.stride, :: self.stride].unflatten(1, (-1, self.inputs))
        return F.pad(lanes, (0, 0, 0, 0, 0, self.outputs - self.inputs)).flatten(1, 2)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        stride: Of the first convolution and the shortcut.
        shortcut: What the shortcut is where the shape changes.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = batch_norm(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = batch_norm(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = _shortcut(inputs, outputs, stride, shortcut)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        branch = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return cast("Tensor", self.relu2(branch + self.shortcut(x)))


class ResNet(nn.Module):
    """A 3x3 stem, three stages of basic blocks at falling resolution, a global average and a linear classifier.

    Args:
        blocks: Blocks of each stage; the network has 6 x blocks + 2 layers.
        options: Width and shortcuts.
        in_channels: Channels of an image.
        num_classes: Logits.
    """

    def __init__(self, blocks: int, options: ResNetOptions, *, in_channels: int, num_classes: int) -> None:
        super().__init__()
        width, kind = options.width, options.shortcut
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = batch_norm(width)
        self.relu = nn.ReLU()
        self.layer1 = _stage(blocks, width, width, 1, kind)
        self.layer2 = _stage(blocks, width, 2 * width, 2, kind)
        self.layer3 = _stage(blocks, 2 * width, 4 * width, 2, kind)
        self.fc = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, in_channels, H, W] to logits [B, num_classes]."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return cast("Tensor", self.fc(x.mean((2, 3))))


def _shortcut(inputs: int, outputs: int, stride: int, kind: Shortcut) -> nn.Module:
    if kind == "pad":
        return PadShortcut(inputs, outputs, stride)
    side = 3 if kind == "conv3" else 1
    convolution = nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)
    return nn.Sequential(convolution, batch_norm(outputs))


def _stage(blocks: int, inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> nn.Sequential:
    shapes = [(inputs, stride)] + [(outputs, 1)] * (blocks - 1)
    return nn.Sequential(*(BasicBlock(width, outputs, step, shortcut) for width, step in shapes))


def _register(depth: int) -> None:
    @models.add(
        f"resnet{depth}",
        options=ResNetOptions,
        source="1512.03385",
        summary=f"ResNet-{depth} for small images, {(depth - 2) // 6} blocks a stage.",
    )
    def build(options: ResNetOptions, *, in_channels: int, image_size: int, num_classes: int) -> nn.Module:
        return ResNet((depth - 2) // 6, options, in_channels=in_channels, num_classes=num_classes)


for _depth in (8, 20, 32, 56):
    _register(_depth)
