r"""Embedding networks: what an observation tells, as a vector that conditions a flow.

Each takes standardised observations :math:`x` with shape :math:`(B, *S)` and a mask of the same
shape that is 1 where a value was observed (missing values are 0), and returns :math:`(B, F)`.
"""

from __future__ import annotations

__all__ = ["embedding"]

import math
from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor


class Identity(nn.Module):
    r"""The observation itself, flat, and its mask where values may be missing."""

    def __init__(self, shape: Sequence[int], missing: bool) -> None:
        super().__init__()
        self.missing = missing
        self.features = math.prod(shape) * (2 if missing else 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x.flatten(1)
        return torch.cat([x, mask.flatten(1).to(x)], dim=1) if self.missing else x


class Block(nn.Module):
    r"""A residual block that starts as the identity."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)
        self.second = nn.Linear(width, width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.drop(nn.functional.silu(self.first(self.norm(x)))))


class Perceptron(nn.Module):
    r"""A perceptron (`residual` False) or a residual one over the flat observation."""

    def __init__(
        self, shape: Sequence[int], missing: bool, *, features: int, width: int, depth: int,
        residual: bool, dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.flat = Identity(shape, missing)
        self.features = features
        layers: list[nn.Module] = [nn.Linear(self.flat.features, width)]
        for _ in range(depth):
            if residual:
                layers.append(Block(width, dropout))
            else:
                layers += [nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width)]
        layers += [nn.SiLU(), nn.Linear(width, features)]
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.net(self.flat(x, mask))


class Convolutions(nn.Module):
    r"""Strided convolutions along the last one or two axes, then a perceptron.

    Axes before them are channels; without any, there is one channel. Each stage halves the axes
    (never below one point) and the last is kept as it is: where a feature stands matters, in a
    spectrum more than anywhere.
    """

    def __init__(
        self, shape: Sequence[int], missing: bool, *, features: int, width: int, depth: int,
        axes: int, dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        if len(shape) < axes:
            raise ValueError(
                f"a {axes}-D convolution needs observations of {axes} axes, not {len(shape)}"
            )
        self.axes, self.missing, self.features = axes, missing, features
        self.grid = tuple(shape[-axes:])
        channels = math.prod(shape[:-axes]) * (2 if missing else 1)
        conv = nn.Conv1d if axes == 1 else nn.Conv2d
        layers: list[nn.Module] = []
        grid = list(self.grid)
        for _ in range(max(depth, 1)):
            layers += [conv(channels, width, 5, stride=2, padding=2), nn.SiLU()]
            channels, grid = width, [-(-n // 2) for n in grid]
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Linear(channels * math.prod(grid), width),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(width, features),
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x.reshape(len(x), -1, *self.grid)
        if self.missing:
            x = torch.cat([x, mask.reshape(x.shape).to(x)], dim=1)
        return self.head(self.convolutions(x).flatten(1))


class Tokens(nn.Module):
    r"""A set of (value, place) pairs of the values that were observed; the others have no say.

    A token is made of each number of the observation from its value and a learnt vector of its
    place. `set` averages a perceptron of the tokens (Deep Sets, Zaheer et al., 2017);
    `transformer` lets them attend to each other first. Either is blind to how many are missing
    except through what is there.
    """

    def __init__(
        self, shape: Sequence[int], missing: bool, *, features: int, width: int, depth: int,
        heads: int, dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        n = math.prod(shape)
        self.features = features
        self.place = nn.Parameter(0.5 * torch.randn(n, width))
        self.value = nn.Linear(1, width)
        self.layers = nn.ModuleList()
        self.heads = heads
        for _ in range(depth):
            if heads:
                layer: nn.Module = nn.TransformerEncoderLayer(
                    width, heads, 2 * width, dropout, activation=nn.functional.silu,
                    batch_first=True, norm_first=True,
                )  # fmt: skip
            else:
                layer = Block(width, dropout)
            self.layers.append(layer)
        self.head = nn.Sequential(
            nn.LayerNorm(width + 1), nn.Linear(width + 1, width), nn.SiLU(),
            nn.Linear(width, features),
        )  # fmt: skip

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x, seen = x.flatten(1), mask.flatten(1).bool()
        tokens = self.value(x[..., None]) * self.place + self.place
        # Where nothing at all was seen, attention needs one token: the first, whose value is 0.
        nothing = ~seen.any(dim=1)
        attended = seen.clone()
        attended[:, 0] |= nothing
        for layer in self.layers:
            if self.heads:
                tokens = layer(tokens, src_key_padding_mask=~attended)
            else:
                tokens = layer(tokens)
        weight = seen.to(tokens)[..., None]
        number = weight.sum(dim=1)
        pooled = (tokens * weight).sum(dim=1) / number.clamp_min(1)
        return self.head(torch.cat([pooled, number / seen.shape[1]], dim=1))


def embedding(
    shape: Sequence[int],
    missing: bool = False,
    *,
    name: str = "resmlp",
    features: int = 64,
    width: int = 64,
    depth: int = 2,
    heads: int = 4,
    dropout: float = 0.0,
) -> nn.Module:
    r"""Builds an embedding network.

    Arguments:
        shape: The shape :math:`S` of an observation.
        missing: Whether values may be missing.
        name: `none`, `mlp`, `resmlp`, `conv1d`, `conv2d`, `set` or `transformer`.
        features: The number :math:`F` of its outputs; `none` decides for itself.
        width: The number of features inside.
        depth: The number of hidden layers, blocks or stages.
        heads: Attention heads of the transformer.
        dropout: The probability with which features are dropped in training.

    Returns:
        A module with an attribute `features`.

    Raises:
        ValueError: If the name is unknown or the shape has too few axes.
    """
    shape = tuple(int(n) for n in shape)
    common = {"features": features, "width": width, "depth": depth, "dropout": dropout}
    if name == "none":
        return Identity(shape, missing)
    if name in ("mlp", "resmlp"):
        return Perceptron(shape, missing, residual=name == "resmlp", **common)
    if name in ("conv1d", "conv2d"):
        return Convolutions(shape, missing, axes=int(name[4]), **common)
    if name in ("set", "transformer"):
        return Tokens(shape, missing, heads=heads if name == "transformer" else 0, **common)
    raise ValueError(f"there is no embedding named {name!r}")
