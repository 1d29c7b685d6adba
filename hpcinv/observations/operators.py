r"""The observation operator: what each row of a table sees of a trajectory.

A row is a function (its head) of one or a few linear components; a component is a sparse
combination of numbers of the state, :math:`u = \sum_k w_k \, x[f_k, c_k, p_k]`. Only the support,
the numbers that some row sees, is ever asked for: through a decoder nothing else is decoded.
Heads: the identity; `speed` :math:`\sqrt{\sum_j u_j^2}`; `saturation`; the user's own. All are
differentiable with torch, so that the adjoint is autograd's.
"""

from __future__ import annotations

__all__ = ["Operator", "Piece"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np

from ..errors import BadInput, nearest
from .config import Derived
from .stencils import beyond_the_pole, horizontal, vectors
from .table import ObservationTable

ALMOST = 1e-6  # share of a step that is none: clocks are rounded
TINY = 1e-12  # keeps the slope of a speed finite in a calm


@dataclass
class Piece:
    r"""The operator of some rows, over their own support.

    Attributes:
        rows: Row numbers in the table, with shape :math:`(D)`.
        frame, channel, point: The support, with shape :math:`(S)`, each number once.
        component, number, weight: The sparse matrix from support to components.
        of: First component of each row and one past the last, with shape :math:`(D + 1)`.
        head: Which of `heads` each row has, −1 for the identity.
        heads: The derived variables in play.
    """

    rows: np.ndarray
    frame: np.ndarray
    channel: np.ndarray
    point: np.ndarray
    component: np.ndarray
    number: np.ndarray
    weight: np.ndarray
    of: np.ndarray
    head: np.ndarray
    heads: tuple[Derived, ...]

    @cached_property
    def matrix(self):
        r"""Support to components, a scipy CSR matrix :math:`(U, S)`."""
        from scipy.sparse import csr_matrix

        shape = (int(self.of[-1]), len(self.frame))
        return csr_matrix((self.weight, (self.component, self.number)), shape)

    @cached_property
    def first(self) -> np.ndarray:
        r"""A number of the support that each row sees, with shape :math:`(D)`."""
        starts = self.matrix.indptr[self.of[:-1]]
        return self.matrix.indices[np.minimum(starts, len(self.matrix.indices) - 1)]

    def linear(self, values: Any) -> Any:
        r"""Components of support values :math:`(..., S)`, numpy or torch: :math:`(..., U)`."""
        if isinstance(values, np.ndarray):
            flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
            return (self.matrix @ flat.T).T.reshape(*values.shape[:-1], -1)
        t = self._tensors(values)
        out = values.new_zeros((*values.shape[:-1], int(self.of[-1])))
        return out.index_add(
            -1, t["component"], values.index_select(-1, t["number"]) * t["weight"]
        )

    def head_of(self, u: Any, spread: Any = None) -> Any:
        r"""Rows of components :math:`(..., U)`: :math:`(..., D)`; where components scatter by
        `spread`, those that saturate in the mean (:mod:`hpcinv.observations.saturation`)."""
        if (self.head < 0).all():
            return u if len(self.rows) == self.of[-1] else u[..., self.of[:-1]]
        array = isinstance(u, np.ndarray)
        import torch

        x = torch.from_numpy(np.ascontiguousarray(u)) if array else u
        out = x[..., torch.as_tensor(self.of[:-1], device=x.device)]
        for k, derived in enumerate(self.heads):
            at = np.flatnonzero(self.head == k)
            if not len(at) or derived.operator in ("column", "level"):
                continue
            n = len(derived.of)
            index = torch.as_tensor(self.of[at][:, None] + np.arange(n), device=x.device)
            if spread is not None and derived.operator == "saturation":
                of = x[..., index[:, 0]], spread[index[:, 0]].to(x)
                from . import saturation

                y = saturation.expected(*of, derived.low, derived.high)
            else:
                y = _head(derived)(x[..., index])
            out = out.index_copy(-1, torch.as_tensor(at, device=x.device), y.to(out))
        return out.numpy() if array else out

    def __call__(self, values: Any, spread: Any = None) -> Any:
        r"""What the rows see, of support values :math:`(..., S)` in physical units; in the mean,
        where values scatter by `spread`, with shape :math:`(S)`."""
        return self.head_of(self.linear(values), None if spread is None else self._total(spread))

    def remainder(self, values: Any, spread: Any) -> Any:
        r"""Variance of what a linear approximation of saturating rows leaves,
        :math:`(..., D)`."""
        u, s = self.linear(values), self._total(spread)
        out = u.new_zeros((*u.shape[:-1], len(self.rows)))
        for k, derived in enumerate(self.heads):
            at = np.flatnonzero(self.head == k)
            if derived.operator == "saturation" and len(at):
                first = self.of[at]
                from . import saturation

                out[..., at] = saturation.remainder(
                    u[..., first], s[first].to(u), derived.low, derived.high
                )
        return out

    def _total(self, spread: Any) -> Any:
        r"""Deviations of components, of a support whose errors are alike: neighbours' are."""
        t = self._tensors(spread)
        out = spread.new_zeros(int(self.of[-1]))
        return out.index_add(0, t["component"], spread[t["number"]] * t["weight"].abs())

    def _tensors(self, like: Any) -> dict[str, Any]:
        import torch

        key = (like.dtype, str(like.device))
        if getattr(self, "_key", None) != key:
            self._kept = {
                "component": torch.as_tensor(self.component, device=like.device),
                "number": torch.as_tensor(self.number, device=like.device),
                "weight": torch.as_tensor(self.weight).to(like),
            }
            self._key = key
        return self._kept


def _head(derived: Derived) -> Callable:
    import torch

    if derived.operator == "speed":
        return lambda u: (u.square().sum(-1) + TINY).sqrt()
    if derived.operator == "saturation":
        return lambda u: torch.clamp(u[..., 0], derived.low, derived.high)
    return own(derived.operator)


def own(name: str) -> Callable:
    r"""The user's operator `module:Name`; a class is called once without arguments.

    Raises:
        BadInput: If the module or the name is not there.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except ImportError as e:
        raise BadInput(
            f"the operator '{name}' cannot be imported ({e})",
            "derived: operator",
            "Put its folder on PYTHONPATH.",
        ) from e
    except AttributeError as e:
        known = [k for k in vars(import_module(module)) if not k.startswith("_")]
        raise BadInput(
            f"no '{attribute}' in {module}", "derived: operator", nearest(attribute, known)
        ) from e
    return found() if isinstance(found, type) else found


class Operator:
    r"""The operator of a table on a trajectory.

    Arguments:
        table: The rows; all must lie on the grid and in the analysed frames.
        store: The trajectory (`coords`, `coord_attrs`, `grid`, `mask`, `channels`, `time`).
        start: Frame of the store that is the table's frame 0; for interpolation in time.
        length: Frames that are analysed; what is later than the last of them sees that one, as
            what is earlier than the first sees the first. By default all that the store has.

    Raises:
        BadInput: If a derived variable names an unknown channel, or a row has no level.
    """

    def __init__(
        self, table: ObservationTable, store: Any, start: int = 0, length: int | None = None
    ) -> None:
        self.table, self.store = table, store
        names = list(store.channels)
        for d in table.forward.derived:
            for c in d.of:
                if c not in names:
                    raise BadInput(
                        f"'{d.name}' is made of the unknown '{c}'", "derived", nearest(c, names)
                    )
        f = table.forward
        self.points, self.weights = horizontal(
            store, f.space, f.cells, table.point, table.lat, table.lon
        )
        self._turned = vectors(store) if self.points.shape[1] > 1 else np.zeros(0, bool)
        if self._turned.any():
            self._across = beyond_the_pole(store, self.points, table.lon)
        self.frames, self.shares = self._moments(start, length)
        order = np.argsort(table.frame, kind="stable")
        self._order, self._sorted = order, table.frame[order]

    def _moments(self, start: int, length: int | None) -> tuple[np.ndarray, np.ndarray]:
        r"""Frames each row sees and their shares, both (D, 1) or (D, 2)."""
        t = self.table
        if t.forward.time == "nearest":
            return t.frame[:, None], np.ones((len(t), 1))
        clock = np.asarray(self.store.time, np.float64)[start:][:length]
        last = len(clock) - 1
        k = np.clip(np.searchsorted(clock, t.time, "right") - 1, 0, max(last - 1, 0))
        after = np.minimum(k + 1, last)
        gap = np.where(clock[after] > clock[k], clock[after] - clock[k], 1.0)
        w = np.clip((t.time - clock[k]) / gap, 0.0, 1.0)
        w = np.where(w < ALMOST, 0.0, np.where(w > 1 - ALMOST, 1.0, w))
        return np.stack([k, after], 1), np.stack([1 - w, w], 1)

    @property
    def moments(self) -> np.ndarray:
        r"""The frame that a row sees, or k + ½ for frames k and k + 1, with shape :math:`(D)`."""
        first, last = self.frames[:, 0], self.frames[:, -1]
        share = self.shares[:, -1]
        return np.where(share == 1, last, np.where(share == 0, first, (first + last) / 2))

    def rows(self, frames: Sequence[int]) -> np.ndarray:
        r"""Rows of some frames, frame by frame in the order given."""
        lo = np.searchsorted(self._sorted, frames, "left")
        hi = np.searchsorted(self._sorted, frames, "right")
        parts = [self._order[a:b] for a, b in zip(lo, hi, strict=True)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def piece(self, rows: np.ndarray) -> Piece:
        r"""The operator of some rows."""
        t, C = self.table, len(self.store.channels)
        names = list(self.store.channels)
        channel = t.channel[rows]
        # Terms of each row: (row, component within it, channel, factor).
        term_row, term_part, term_channel, factor = [], [], [], []
        width = np.ones(len(rows), np.int64)
        direct = np.flatnonzero(channel < C)
        term_row.append(direct)
        term_part.append(np.zeros(len(direct), np.int64))
        term_channel.append(channel[direct])
        factor.append(np.ones(len(direct)))
        for k, d in enumerate(t.forward.derived):
            at = np.flatnonzero(channel == C + k)
            index = np.array([names.index(c) for c in d.of])
            n = len(index)
            if d.operator in ("column", "level"):
                parts = np.zeros((len(at), n), np.int64)
                w = self._vertical(d, rows[at])
            else:
                parts = np.broadcast_to(np.arange(n), (len(at), n))
                w = np.ones((len(at), n))
                width[at] = n
            term_row.append(np.repeat(at, n))
            term_part.append(parts.reshape(-1))
            term_channel.append(np.tile(index, len(at)))
            factor.append(w.reshape(-1))
        row, part, chan, w = (
            np.concatenate(v) for v in (term_row, term_part, term_channel, factor)
        )
        of = np.concatenate([[0], np.cumsum(width)])
        points, weights = self.points[rows][row], self.weights[rows][row]
        frames, shares = self.frames[rows][row], self.shares[rows][row]
        K, T = points.shape[1], frames.shape[1]
        if self._turned.any():  # beyond the pole east is west
            flip = self._turned[chan][:, None] & self._across[rows][row]
            weights = np.where(flip, -weights, weights)
        full = weights[:, None, :] * shares[:, :, None] * w[:, None, None]
        shape = (len(row), T, K)
        keep = full.reshape(-1) != 0
        flat = lambda x: np.broadcast_to(x, shape).reshape(-1)[keep]  # noqa: E731
        f, c = flat(frames[:, :, None]), flat(chan[:, None, None])
        p = flat(points[:, None, :])
        grid = int(np.prod(self.store.grid))
        key = (f * C + c) * grid + p
        unique, number = np.unique(key, return_inverse=True)
        fc, point = np.divmod(unique, grid)
        frame, ch = np.divmod(fc, C)
        head = np.where(channel >= C, channel - C, -1)
        return Piece(
            rows=rows,
            frame=frame,
            channel=ch,
            point=point,
            component=flat((of[:-1][row] + part)[:, None, None]),
            number=number,
            weight=full.reshape(-1)[keep],
            of=of,
            head=head,
            heads=t.forward.derived,
        )

    def _vertical(self, d: Derived, rows: np.ndarray) -> np.ndarray:
        r"""Weights of the levels of each row, (D, n)."""
        if d.weights is not None:
            return np.broadcast_to(np.asarray(d.weights, float), (len(rows), len(d.of)))
        x = np.asarray(d.levels, np.float64)
        if d.operator == "column":  # the trapezoid rule
            w = np.zeros(len(x))
            gap = np.abs(np.diff(x)) / 2
            w[:-1] += gap
            w[1:] += gap
            return np.broadcast_to(d.scale * w, (len(rows), len(x)))
        level = self.table.level[rows]
        low, high = min(x), max(x)
        bad = ~((level >= low) & (level <= high))
        if bad.any():
            row = int(rows[np.flatnonzero(bad)[0]])
            raise BadInput(
                f"level {self.table.level[row]:g} of '{d.name}', between {low:g} and {high:g}",
                f"row {row} of the table",
                "Give a level within those of the channels, or leave the row out.",
            )
        order = np.argsort(x)
        up, at = (np.log(x[order]), np.log(level)) if d.logarithmic else (x[order], level)
        k = np.clip(np.searchsorted(up, at, "right") - 1, 0, len(up) - 2)
        share = (at - up[k]) / (up[k + 1] - up[k])
        w = np.zeros((len(rows), len(x)))
        w[np.arange(len(rows)), order[k]] = 1 - share
        w[np.arange(len(rows)), order[k + 1]] = share
        return w

    def see(self, read: Callable[[int], np.ndarray], frames: Sequence[int]) -> np.ndarray:
        r"""What the rows of some frames see, in the order of `rows(frames)`.

        Arguments:
            read: Gives a frame of the trajectory, physical units, with shape
                :math:`(..., C, *grid)`; it is called once for each frame the rows see.
        """
        p = self.piece(self.rows(frames))
        return p(self.support(p, read)) if len(p.rows) else np.zeros(0)

    def support(self, p: Piece, read: Callable[[int], np.ndarray]) -> np.ndarray:
        r"""The numbers that a piece sees, :math:`(..., S)`; `read` as in `see`."""
        values = None
        for f in np.unique(p.frame):
            x = np.asarray(read(int(f)))
            lead = x.shape[: x.ndim - 1 - len(self.store.grid)]
            x = x.reshape(*lead, len(self.store.channels), -1)
            if values is None:
                values = np.empty((*lead, len(p.frame)))
            at = p.frame == f
            values[..., at] = x[..., p.channel[at], p.point[at]]
        return values
