r"""Observations of single numbers of a state whose law is not Gaussian.

Moment matching takes x given x_t for Gaussian. Where a number has two likely values, or an
instrument answers in a curve, that misplaces members: a Gaussian about the saddle between two
wells expects what neither well would show. What decides is the law of *one* number, known:

.. math:: p(u \mid x_t) \approx p(u) \, e^{\eta u - \alpha_t^2 u^2 / 2 \sigma_t^2} ,

the prior's marginal p(u), seen through the noise of x_t, tilted by :math:`\eta` until its mean is
the denoiser's (for a single number without neighbours that is exact). With the likelihood of y it
has a mean and a variance, by quadrature; and the Gaussian observation that would have given just
these, of number and precision

.. math:: c = (1/v_+ - 1/v)_+ , \qquad \ell = (m_+ - m)(1/v + c) ,

is what the solve for all numbers then sees, whatever their covariance. Such two steps, the number
first and the state by regression on it, are those of ensemble filters (Anderson 2003), and the
observation is a site of expectation propagation (Minka 2001). It costs no call of the network.

References:
    | A Local Least Squares Framework for Ensemble Filtering (Anderson, 2003)
    | https://doi.org/10.1175/1520-0493(2003)131<0634:ALLSFF>2.0.CO;2
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput
from .moments import Moment
from .point_likelihood import PointLikelihood

__all__ = ["Law", "PointwiseLikelihood"]

TILTS = 1024  # of the table that finds a tilt by its mean
CHUNK = 1 << 22  # numbers of a quadrature at once
FAINT = 1e-8  # least precision of a site, in units of the law's


class Law:
    r"""The law of one number: a density on an even grid.

    Arguments:
        u: The grid, with shape ``(G,)``.
        logp: Logarithm of the density there, up to a constant.

    Raises:
        BadInput: If the grid is not even and increasing, or a density is not a number.
    """

    def __init__(self, u: Tensor, logp: Tensor) -> None:
        self.u, logp = u.double(), logp.double()
        step = self.u.diff()
        if len(u) < 8 or logp.shape != u.shape or not bool((step > 0).all()):
            raise BadInput("a law needs a grid that increases, and a density on it", where="law")
        if float(step.max() - step.min()) > 1e-6 * float(self.u[-1] - self.u[0]):
            raise BadInput("the grid of a law must be even", where="law")
        if bool(torch.isnan(logp).any()) or not bool(torch.isfinite(logp).any()):
            raise BadInput("the density of a law is not a number", where="law")
        self.logp = torch.log_softmax(logp, 0).clamp_min(-700.0)
        self.step = float(step.mean())
        p = self.logp.exp()
        self.mean = float((p * self.u).sum())
        self.variance = float((p * (self.u - self.mean) ** 2).sum())

    @classmethod
    def of(cls, samples: Tensor, nodes: int = 256) -> Law:
        r"""That of samples ``(n,)``: a Gaussian kernel of Silverman's width.

        Raises:
            BadInput: If there are fewer than 32 samples, or they do not vary.
        """
        x = samples.double().flatten()
        if len(x) < 32 or not bool(torch.isfinite(x).all()) or float(x.std()) == 0:
            raise BadInput("a law needs 32 finite samples that vary", where="law")
        q = torch.quantile(x[:: -(-len(x) // 100_000)], x.new_tensor([0.25, 0.75]))
        # Of what has two wells the quartiles tell more of the wells' distance than of their width.
        width = 0.9 * min(float(x.std()), float(q[1] - q[0]) / 1.34 or 1e30) * len(x) ** -0.2
        margin = 0.25 * float(x.max() - x.min()) + 3 * width
        u = torch.linspace(float(x.min()) - margin, float(x.max()) + margin, nodes).double()
        step = float(u[1] - u[0])
        count = torch.histc(x, nodes, float(u[0]) - step / 2, float(u[-1]) + step / 2)
        kernel = torch.exp(-((u[:, None] - u) ** 2) / (2 * max(width, step) ** 2))
        return cls(u, torch.log((kernel @ count) / len(x) + 1e-12))

    def finer(self, step: float) -> Law:
        r"""The same on a grid of at most that step, between nodes as log p is linear."""
        n = int(-(-(float(self.u[-1] - self.u[0])) // step)) + 1
        if n <= len(self.u):
            return self
        u = torch.linspace(float(self.u[0]), float(self.u[-1]), n, dtype=torch.float64)
        return Law(u, _between(u, self.u, self.logp))


class PointwiseLikelihood:
    r"""y = h(x[c, p]) + N(0, σ²) of numbers whose law in the prior is known.

    Arguments:
        table: Columns as of `PointLikelihood`, in the units of the sampled state.
        law: The law of an observed number in the prior, in units of the state.
        shape: The shape ``(C, *grid)`` of the state.
        length: Number of frames L.
        operator: h, elementwise and differentiable; None: y is the number itself.

    Raises:
        BadInput: As `PointLikelihood`.
    """

    def __init__(
        self,
        table: Any,
        law: Law,
        *,
        shape: Sequence[int],
        length: int,
        operator: Callable[[Tensor], Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._points = PointLikelihood(table, shape=shape, length=length, dtype=dtype)
        self.linear, self._h = operator is None, operator or (lambda u: u)
        sigma = min((float(table.error[i]) for i in range(len(table.error))), default=1.0)
        self._law = law.finer(max(sigma / 2, float(law.u[-1] - law.u[0]) / 2048))
        self._tables: dict[float, tuple[Tensor, Tensor]] = {}

    def sizes(self, frames: Sequence[Moment]) -> list[int]:
        return self._points.sizes(frames)

    def y(self, frames: Sequence[Moment]) -> Tensor:
        return self._points.y(frames)

    def variance(self, frames: Sequence[Moment]) -> Tensor:
        return self._points.variance(frames)

    def covariance(self, v: Tensor, frames: Sequence[Moment]) -> Tensor:
        return self._points.covariance(v, frames)

    def operator(self, x: Tensor, frames: Sequence[Moment]) -> Tensor:
        return self._h(self._points.operator(x, frames))

    @property
    def numbers(self) -> PointLikelihood:
        r"""Whose operator is the observed numbers themselves."""
        return self._points

    def matched(self, z: Tensor, told: float, frames: Sequence[Moment]) -> tuple[Tensor, Tensor]:
        r"""Gaussian observations that do to a Gaussian number what y does to this one.

        Arguments:
            z: Means of the observed numbers given x_t, with shape ``(B, D)``.
            told: Precision α²/σ² with which x_t itself tells a number.

        Returns:
            Departures from z, and variances, both ``(B, D)``.
        """

        y, R = (v.double() for v in (self.y(frames), self.variance(frames)))
        out = torch.empty((2, *z.shape), dtype=torch.float64)
        local = told * (2.5 * self._law.step) ** 2 > 1
        nodes = 65 if local else len(self._law.u)
        rows = max(CHUNK // max(nodes * len(z), 1), 1)
        for a in range(0, z.shape[1], rows):
            at = slice(a, a + rows)
            cloud = self._near if local else self._tilted
            out[:, :, at] = self._sites(*cloud(z[:, at].double().cpu(), told), y[at], R[at])
        departure, variance = out.to(z.device)
        return departure, variance

    def _tilted(self, z: Tensor, told: float) -> tuple[Tensor, Tensor]:
        r"""Nodes ``(G,)`` and log weights ``(B, D, G)`` of the law whose mean is z."""
        u, logp = self._law.u, self._law.logp - told * self._law.u**2 / 2
        if told not in self._tables:
            while len(self._tables) > 3:  # Heun goes back and forth between two levels
                self._tables.pop(next(iter(self._tables)))
            reach = 30 / self._law.variance**0.5  # far beyond, the mean is an end of the grid
            eta = torch.linspace(-1, 1, TILTS, dtype=torch.float64)
            eta = told * (u[0] + u[-1]) / 2 + eta * (told * (u[-1] - u[0]) / 2 + reach)
            p = torch.softmax(logp + eta[:, None] * u, 1)
            self._tables[told] = (p * u).sum(1), eta
        mean, eta = self._tables[told]
        return u, logp + _between(z, mean, eta)[..., None] * u

    def _near(self, z: Tensor, told: float) -> tuple[Tensor, Tensor]:
        r"""Where the noise is too small for the grid of the law: a Gaussian about z."""
        t = torch.linspace(-5, 5, 65, dtype=torch.float64)
        return z[..., None] + t / told**0.5, (-(t**2) / 2).expand(*z.shape, -1)

    def _sites(self, u: Tensor, logp: Tensor, y: Tensor, R: Tensor) -> Tensor:
        def moments(logw: Tensor) -> tuple[Tensor, Tensor]:
            p = torch.softmax(logw, -1)
            m = (p * u).sum(-1)
            return m, (p * (u - m[..., None]) ** 2).sum(-1)

        seen = -((y[:, None] - self._h(u)) ** 2) / (2 * R[:, None])
        m, v = moments(logp)
        m_y, v_y = moments(logp + seen)
        # A node stands for all numbers about it.
        width = (u[..., 1] - u[..., 0]) ** 2 / 12
        v, v_y = v.clamp_min(1e-300) + width, v_y + width
        least = FAINT / self._law.variance
        c = (1 / v_y - 1 / v).clamp_min(least)
        return torch.stack([(m_y - m) * (1 / v + c) / c, 1 / c])


def _between(x: Tensor, known: Tensor, value: Tensor) -> Tensor:
    r"""Linear interpolation; the end values beyond the ends."""
    i = torch.searchsorted(known, x.contiguous()).clamp(1, len(known) - 1)
    a, b = known[i - 1], known[i]
    w = ((x - a) / (b - a).clamp_min(1e-300)).clamp(0, 1)
    return value[i - 1] + w * (value[i] - value[i - 1])
