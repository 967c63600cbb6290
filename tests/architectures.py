"""Small networks with something between their layers, each with the shape of one sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Case = tuple[Callable[[], nn.Module], tuple[int, ...]]


class Written(nn.Module):
    """A network whose forward pass is a function of its parts and of a batch."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        self.written = forward
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.written(self, x)


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs)


def conv(inputs: int, outputs: int, kernel: int = 3, **how: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **how)


def _attend(n: Any, x: Tensor, causal: bool = False, mask: Tensor | None = None) -> Tensor:
    q, k, v = n.qkv(n.embed(x)).chunk(3, -1)
    heads = [part.unflatten(-1, (2, 2)).transpose(1, 2) for part in (q, k, v)]
    found = F.scaled_dot_product_attention(*heads, attn_mask=mask, is_causal=causal)
    return n.out(found.transpose(1, 2).flatten(2))


def _by_hand(n: Any, x: Tensor) -> Tensor:
    q, k, v = n.qkv(n.embed(x)).chunk(3, -1)
    scores = (q @ k.transpose(1, 2) / 2).masked_fill(n.closed, -1e9)
    return n.out(scores.softmax(-1) @ v)


def _attention(forward: Callable[..., Tensor], **more: Any) -> Case:
    return lambda: Written(forward, embed=linear(3, 4), qkv=linear(4, 12), out=linear(4, 2), **more), (4, 3)


def _vit(n: Any, x: Tensor) -> Tensor:
    tokens = n.patches(x).flatten(2).transpose(1, 2)
    tokens = torch.cat([n.cls.expand(len(x), -1, -1), tokens], 1) + n.pos_embed
    return n.head(n.block(tokens)[:, 0])


def vit() -> nn.Module:
    block = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, norm_first=True)
    cls, positions = nn.Parameter(torch.randn(1, 1, 4)), nn.Parameter(torch.randn(1, 5, 4))
    patches, head = nn.Conv2d(1, 4, 2, 2), linear(4, 2)
    return Written(_vit, patches=patches, block=block, head=head, cls=cls, pos_embed=positions)


def _highway(n: Any, x: Tensor) -> Tensor:
    x = n.first(x)
    gate = torch.sigmoid(n.gate(x))
    return n.last(gate * F.relu(n.body(x)) + (1 - gate) * x)


def _standardised(n: Any, x: Tensor) -> Tensor:
    x = n.first(x)
    return n.last((x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5))


def _recurrent(kind: type[nn.RNNBase]) -> Case:
    def forward(n: Any, x: Tensor) -> Tensor:
        maps = n.first(x).flatten(2).transpose(1, 2)
        return n.last(n.rnn(maps)[0][:, -1])

    return lambda: Written(forward, first=conv(1, 3), rnn=kind(3, 4, batch_first=True), last=linear(4, 2)), (1, 3, 3)


def _cells(n: Any, x: Tensor) -> Tensor:
    state = torch.zeros(len(x), 3, dtype=x.dtype)
    for t in range(x.shape[1]):
        state = n.cell(n.first(x[:, t]), state)
    return n.last(state)


def _squeeze_excite(n: Any, x: Tensor) -> Tensor:
    x = F.relu(n.first(x))
    gate = torch.sigmoid(n.up(F.relu(n.down(x.mean((2, 3))))))
    return n.last((x * gate[:, :, None, None]).amax((2, 3)))


def _softmax_pooling(n: Any, x: Tensor) -> Tensor:
    x = n.first(x).flatten(2)
    return n.last((x * x.softmax(-1)).sum(-1))


def _scatter_into(n: Any, x: Tensor) -> Tensor:
    found = torch.zeros(len(x), 6, dtype=x.dtype)
    found[:, :3] = n.left(x)
    found[:, [3, 5]] = n.right(x)
    found[:, 4] += found[:, 0]
    return n.last(found.relu_())


def _complex(n: Any, x: Tensor) -> Tensor:
    signal = torch.view_as_complex(n.first(x).view(len(x), 3, 2))
    turned = torch.einsum("bi,ij->bj", signal, n.turn.to(signal))
    return n.last(torch.view_as_real(turned).flatten(1))


def _fourier(n: Any, x: Tensor) -> Tensor:
    return n.last(torch.fft.irfft(torch.fft.rfft(n.first(x)) * n.filter, n=6))


def _tied(n: Any, x: Tensor) -> Tensor:
    return F.linear(torch.tanh(n.first(x)), n.first.weight.t())


def _steps(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


def _between(between: Callable[[Tensor], Tensor], inputs: int = 6, outputs: int = 6) -> Case:
    """Between two linear layers."""
    forward = lambda n, x: n.last(between(n.first(x)))  # noqa: E731
    return lambda: Written(forward, first=linear(3, inputs), last=linear(outputs, 2)), (3,)


def _maps(between: Callable[[Tensor], Tensor], channels: int = 4, outputs: int = 4) -> Case:
    """Between a convolution and a linear layer that reads the largest value of each map."""
    forward = lambda n, x: n.last(between(n.first(x)).amax((2, 3)))  # noqa: E731
    return lambda: Written(forward, first=conv(2, channels), last=linear(outputs, 2)), (2, 4, 4)


def _pixels(between: Callable[[Tensor], Tensor], outputs: int, channels: int = 2) -> Case:
    """Between a convolution and a linear layer that reads every pixel."""
    forward = lambda n, x: n.last(between(n.first(x)).flatten(1))  # noqa: E731
    return lambda: Written(forward, first=conv(1, channels), last=linear(outputs, 2)), (1, 4, 4)


def _layer(layer: Callable[[], nn.Module], outputs: int = 6) -> Case:
    return lambda: _steps(linear(3, 6), layer(), linear(outputs, 2)), (3,)


_CAUSAL = torch.ones(4, 4).triu(1).bool()
_WINDOW = torch.zeros(4, 4).masked_fill(_CAUSAL.t(), -torch.inf)

ARCHITECTURES: dict[str, Case] = {
    "attention": _attention(_attend),
    "attention, causal": _attention(lambda n, x: _attend(n, x, causal=True)),
    "attention, boolean mask": _attention(lambda n, x: _attend(n, x, mask=~n.closed), closed=_CAUSAL),
    "attention, added mask": _attention(lambda n, x: _attend(n, x, mask=n.window.to(x)), window=_WINDOW),
    "attention by hand, closed by -1e9": _attention(_by_hand, closed=_CAUSAL),
    "multi-head attention": (
        lambda: Written(
            lambda n, x: n.last(n.mha(*[n.first(x)] * 3)[0]),
            first=linear(3, 4), mha=nn.MultiheadAttention(4, 2, batch_first=True), last=linear(4, 2),
        ), (3, 3),
    ),
    "multi-head attention, other keys": (
        lambda: Written(
            lambda n, x: n.mha(n.first(x), x, x, need_weights=False)[0],
            first=linear(3, 4), mha=nn.MultiheadAttention(4, 2, kdim=3, vdim=3, batch_first=True, bias=False),
        ), (3, 3),
    ),
    "transformer layer": (
        lambda: _steps(linear(3, 4), nn.TransformerEncoderLayer(4, 2, 5, batch_first=True)), (3, 3)
    ),
    "transformer layer, causal": (
        lambda: Written(
            lambda n, x: n.layer(n.first(x), src_mask=n.window.to(x)),
            first=linear(3, 4), layer=nn.TransformerEncoderLayer(4, 2, 5, batch_first=True), window=_WINDOW,
        ), (4, 3),
    ),
    "vision transformer": (vit, (1, 4, 4)),
    "highway": (lambda: Written(_highway, **{n: linear(4, 4) for n in ("first", "gate", "body", "last")}), (4,)),
    "squeeze and excite": (
        lambda: Written(_squeeze_excite, first=conv(1, 4), down=linear(4, 2), up=linear(2, 4), last=linear(4, 2)),
        (1, 3, 3),
    ),
    "GLU": _between(lambda x: F.glu(x, 1), 6, 3),
    "GLU by hand": _between(lambda x: x[:, :3] * x[:, 3:].sigmoid(), 6, 3),
    "CReLU": _between(lambda x: torch.cat([x.relu(), (-x).relu()], 1), 6, 12),
    "difference of branches": (
        lambda: Written(
            lambda n, x: n.last(n.a(x).relu() - n.b(x).relu()), a=linear(3, 4), b=linear(3, 4), last=linear(4, 2)
        ), (3,),
    ),
    "cat": (
        lambda: Written(
            lambda n, x: n.last(torch.cat([n.a(x), x], 1)), a=linear(3, 4), last=linear(7, 2)
        ), (3,),
    ),
    "maxout": _between(lambda x: x.view(-1, 3, 2).max(-1).values, 6, 3),
    "maxout, maximum": _between(lambda x: torch.maximum(x[:, :3], x[:, 3:]), 6, 3),
    "median": _between(lambda x: x.view(-1, 2, 3).median(-1).values, 6, 2),
    "sort": _between(lambda x: x.sort(1, descending=True).values),
    "top k": _between(lambda x: x.topk(2, 1).values, 6, 2),
    "running sum": _between(lambda x: x.cumsum(1)),
    "convolution and RNN": _recurrent(nn.RNN),
    "convolution and GRU": _recurrent(nn.GRU),
    "convolution and LSTM": _recurrent(nn.LSTM),
    "GRU cell": (lambda: Written(_cells, first=linear(2, 3), cell=nn.GRUCell(3, 3), last=linear(3, 2)), (3, 2)),
    "normalisation by hand": (lambda: Written(_standardised, first=linear(3, 5), last=linear(5, 2)), (3,)),
    "pixels to -1 to 1 first": (
        lambda: Written(
            lambda n, x: n.last(n.first((x - 127.5) / 127.5).relu().flatten(1)), first=conv(1, 2), last=linear(18, 2)
        ), (1, 3, 3),
    ),
    "where": _between(lambda x: torch.where(x > 0, x, -0.1 * x)),
    "where, constant condition": _between(lambda x: torch.where(torch.arange(6) < 3, x, x.flip(1))),
    "indexing": _between(lambda x: x[:, [0, 2, 2, 5]], 6, 4),
    "indexing by names": _between(lambda x: x.gather(1, torch.tensor([[1, 3]]).expand(len(x), 2)), 6, 2),
    "flip and roll": _between(lambda x: x.flip(1).roll(1, 1) + x),
    "written into zeros": (
        lambda: Written(_scatter_into, left=linear(3, 3), right=linear(3, 2), last=linear(6, 2)), (3,),
    ),
    "in-place masks": _between(lambda x: x.clone().masked_fill_(torch.arange(6) > 3, 0.0)),
    "clamp and abs": _between(lambda x: x.clamp(-0.5, 0.5) + x.abs()),
    "hard swish": _layer(nn.Hardswish),
    "PReLU": _layer(lambda: nn.PReLU(6)),
    "softmax": _layer(lambda: nn.Softmax(1)),
    "layer norm": _layer(lambda: nn.LayerNorm(6)),
    "RMS norm": _layer(lambda: nn.RMSNorm(6)),
    "group norm": (lambda: _steps(linear(3, 6), nn.GroupNorm(2, 6), linear(6, 2)), (3,)),
    "normalised vectors": _between(lambda x: F.normalize(x, dim=1)),
    "a buffer that scales": (
        lambda: Written(
            lambda n, x: n.last(n.first(x) * n.scale), first=linear(3, 4), last=linear(4, 2),
            scale=torch.tensor([-1.0, 0.0, 2.0, 0.5]),
        ), (3,),
    ),
    "a parameter that scales": (
        lambda: Written(
            lambda n, x: n.last(n.first(x) * n.gain), first=linear(3, 4), last=linear(4, 2),
            gain=nn.Parameter(torch.zeros(4)),
        ), (3,),
    ),
    "pixel shuffle": _pixels(lambda x: F.pixel_shuffle(x, 2), 64, channels=4),
    "channel shuffle": _maps(lambda x: F.channel_shuffle(x, 2)),
    "softmax pooling": (lambda: Written(_softmax_pooling, first=conv(1, 3), last=linear(3, 2)), (1, 3, 3)),
    "max pooling": _pixels(lambda x: F.max_pool2d(x, 2), 8),
    "upsampling": _pixels(lambda x: F.interpolate(x[:, :, ::2, ::2], scale_factor=2, mode="bilinear"), 32),
    "patches": _pixels(lambda x: F.unfold(x, 2, stride=2), 32),
    "reflected edges": _pixels(lambda x: F.pad(x, (1, 1, 0, 0), mode="reflect"), 48),
    "transposed convolution": (
        lambda: _steps(conv(1, 2), nn.ConvTranspose2d(2, 2, 2, stride=2), nn.Flatten(), linear(72, 2)), (1, 3, 3),
    ),
    "grouped convolution": (lambda: _steps(conv(2, 4), conv(4, 4, groups=2), nn.Flatten(), linear(36, 2)), (2, 3, 3)),
    "instance norm": (
        lambda: _steps(conv(1, 3), nn.InstanceNorm2d(3), nn.ReLU(), nn.Flatten(), linear(27, 2)), (1, 3, 3)
    ),
    "layers called twice": (
        lambda: Written(
            lambda n, x: n.last(n.again(n.again(n.first(x)).relu()).relu()),
            first=linear(3, 4), again=linear(4, 4), last=linear(4, 2),
        ), (3,),
    ),
    "tied weights": (lambda: Written(_tied, first=linear(4, 3)), (4,)),
    "weights times weights": (
        lambda: Written(
            lambda n, x: n.last(F.linear(x, n.outer.weight @ n.inner.weight)),
            inner=linear(3, 2), outer=linear(2, 4), last=linear(4, 2),
        ), (3,),
    ),
    "standardised weights": (
        lambda: Written(
            lambda n, x: n.last(F.linear(n.first(x), n.again.weight - n.again.weight.mean(1, keepdim=True))),
            first=linear(3, 4), again=linear(4, 4), last=linear(4, 2),
        ), (3,),
    ),
    "complex numbers": (
        lambda: Written(
            _complex, first=linear(3, 6), last=linear(4, 2),
            turn=torch.tensor([[1 + 1j, 1 - 2j], [0, 1j - 1], [2 + 2j, 0]]),
        ), (3,),
    ),
    "Fourier filter": (
        lambda: Written(_fourier, first=linear(3, 6), last=linear(6, 2), filter=torch.tensor([1.0, 0.5, -1.0, 2.0])),
        (3,),
    ),
    "experts": (
        lambda: Written(
            lambda n, x: n.last((torch.stack([n.a(x), n.b(x)], 1) * n.gate(x).softmax(1)[:, :, None]).sum(1)),
            a=linear(3, 3), b=linear(3, 3), gate=linear(3, 2), last=linear(3, 2),
        ), (3,),
    ),
    "bilinear layer": (
        lambda: Written(
            lambda n, x: n.last(n.both(n.a(x), n.b(x))),
            a=linear(3, 3), b=linear(3, 3), both=nn.Bilinear(3, 3, 3), last=linear(3, 2),
        ), (3,),
    ),
    "products of sums": _between(lambda x: torch.einsum("bi,bj->bij", x[:, :3], x[:, 3:]).flatten(1), 6, 9),
    "distances": _between(lambda x: torch.cdist(x.view(-1, 3, 2)[:, :2], x.view(-1, 3, 2)[:, 2:]).flatten(1), 6, 2),
    "two outputs": (
        lambda: Written(
            lambda n, x: {"logits": n.last(n.first(x)), "more": (n.aside(x),)},
            first=linear(3, 4), last=linear(4, 2), aside=linear(3, 2),
        ), (3,),
    ),
}  # fmt: skip
ORDERS = ("median", "sort", "top k")
"""An element beside constants in an order may never be the one chosen, which structure cannot tell."""
