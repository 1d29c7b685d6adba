r"""Two chains whose posteriors are known exactly, for `posterior.py`.

`Chain` is linear and Gaussian: x[i+1] = 0.95 Q x[i] + noise with stationary covariance I, frames
of 4 variables, two of which are observed at every 4th frame with σ = 0.1. `Well` is a scalar
double well on a grid, where forward–backward gives what a Gaussian cannot.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.noise import VESchedule

from hpcinv import assimilation
from hpcinv.diffusion import noise

VARIABLES, SIGMA = 4, 0.1


class Chain:
    r"""The chain of ``length`` frames and its exact smoother."""

    def __init__(self, length: int) -> None:
        self.length = length
        # A fixed rotation (torch's own generator, seed 1): one chain for all tables ever printed.
        g = torch.Generator().manual_seed(1)
        g = torch.randn(VARIABLES, VARIABLES, dtype=torch.float64, generator=g)
        A = 0.95 * torch.linalg.qr(g)[0]
        powers = [torch.eye(VARIABLES, dtype=torch.float64)]
        for _ in range(length):
            powers.append(A @ powers[-1])
        rows = [
            torch.cat([powers[i - j] if i >= j else powers[j - i].T for j in range(length)], 1)
            for i in range(length)
        ]
        self.C = torch.cat(rows, 0)
        self.frame = [i for i in range(0, length, 4) for _ in range(2)]
        self.channel = [c for _ in range(0, length, 4) for c in range(2)]
        self.at = torch.tensor(self.frame) * VARIABLES + torch.tensor(self.channel)
        H = torch.eye(len(self.C), dtype=torch.float64)[self.at]
        S = H @ self.C @ H.T + SIGMA**2 * torch.eye(len(H), dtype=torch.float64)
        self.K = self.C @ H.T @ torch.linalg.inv(S)
        self.covariance = self.C - self.K @ H @ self.C
        self.std = self.covariance.diagonal().sqrt()
        self.root = torch.linalg.cholesky(self.C)

    def moments(self, window: int) -> torch.Tensor:
        n = window * VARIABLES
        return self.C[:n, :n].reshape(window, VARIABLES, window, VARIABLES)

    def denoiser(self, window: int, step: int = 1):
        reach = (window - 1) * step + 1
        return assimilation.StationaryGaussian(
            torch.zeros(reach, VARIABLES, dtype=torch.float64),
            self.moments(reach),
            VESchedule(1e-3, 1e2),
            step,
        )

    def observations(self, draw: int) -> torch.Tensor:
        r"""The observed values of a draw."""

        z = noise.normal((len(self.C),), seed=draw, purpose="truth", dtype=torch.float64)
        e = noise.normal((len(self.at),), seed=draw, purpose="error", dtype=torch.float64)
        return (self.root @ z)[self.at] + SIGMA * e

    def likelihood(self, y: torch.Tensor) -> assimilation.PointLikelihood:
        class Table:
            frame, channel, point = self.frame, self.channel, [0] * len(self.frame)
            value, error = y.numpy(), [SIGMA] * len(self.frame)

        return assimilation.PointLikelihood(
            Table, shape=(VARIABLES,), length=self.length, dtype=torch.float64
        )


class Well(Denoiser):
    r"""A double-well Markov chain on a grid, u' = u + 0.15 (2u − 2u³) + 0.35 noise.

    Forward–backward gives the exact, differentiable denoiser of any run of frames, and the exact
    marginals given any observations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.schedule = VESchedule(1e-2, 30.0)
        u = torch.linspace(-2.2, 2.2, 61, dtype=torch.float64)
        drift = u + 0.15 * (2 * u - 2 * u**3).clamp(-8, 8)
        P = torch.softmax(-((u[None] - drift[:, None]) ** 2) / (2 * 0.35**2), dim=1)
        law = torch.linalg.matrix_power(P, 1 << 14)[len(u) // 2]
        self.u, self.P, self.law = u, P, (law + law.flip(0)) / 2

    def marginals(self, loglik: torch.Tensor) -> torch.Tensor:
        r"""p(x_i | all) on the grid, from log-likelihoods, both ``(B, T, 61)``."""

        like = torch.exp(loglik - loglik.amax(-1, keepdim=True))
        law, P, T = self.law.to(like), self.P.to(like), like.shape[1]
        past, ahead = [law * like[:, 0]], [torch.ones_like(like[:, 0])]
        for i in range(1, T):
            a = (past[-1] / past[-1].sum(-1, keepdim=True)) @ P
            past.append(a * like[:, i])
            b = (ahead[-1] * like[:, T - i]) @ P.T
            ahead.append(b / b.amax(-1, keepdim=True))
        both = torch.stack(past, 1) * torch.stack(ahead[::-1], 1)
        return both / both.sum(-1, keepdim=True)

    def forward(self, x_t, t, **kwargs):
        sigma, u = self.schedule.sigma(t), self.u.to(x_t)
        p = self.marginals(-((x_t - u) ** 2) / (2 * sigma**2))
        return DiracPosterior(mean=(p @ u)[..., None])

    def moments(self, window: int) -> torch.Tensor:
        lags, P = [], torch.eye(len(self.u), dtype=torch.float64)
        for _ in range(window):
            lags.append((self.law * self.u) @ P @ self.u)
            P = P @ self.P
        i = torch.arange(window)
        return torch.stack(lags)[(i[:, None] - i).abs()][:, None, :, None]

    def matched(self, y: dict[int, float], sigma: float, h, length: int, dtype):
        r"""The same observations as `Seen`, matched to the chain's law of one number."""

        zeros = [0] * len(y)
        table = SimpleNamespace(
            frame=list(y),
            value=list(y.values()),
            error=[sigma] * len(y),
            channel=zeros,
            point=zeros,
        )
        law = assimilation.Law(self.u, self.law.clamp(min=1e-12).log())
        return assimilation.PointwiseLikelihood(
            table, law, shape=(1,), length=length, operator=h, dtype=dtype
        )

    def truth(self, length: int, draw: int) -> torch.Tensor:
        rng = noise.generator(draw, "well")
        i = [int(rng.choice(len(self.u), p=self.law.numpy() / float(self.law.sum())))]
        for _ in range(length - 1):
            p = self.P[i[-1]].numpy()
            i.append(int(rng.choice(len(self.u), p=p / p.sum())))
        return self.u[i]

    def draw(self, loglik: torch.Tensor, members: int, seed: int) -> torch.Tensor:
        r"""Exact posterior trajectories ``(members, T)``: forward filter, backward sampling."""

        like = torch.exp(loglik - loglik.amax(-1, keepdim=True))
        past = [self.law * like[0]]
        for row in like[1:]:
            past.append(((past[-1] / past[-1].sum()) @ self.P) * row)
        rng = noise.generator(seed, "smoother")

        def pick(p):
            below = (p / p.sum(-1, keepdim=True)).cumsum(-1)
            r = torch.from_numpy(rng.random((members, 1)))
            return (below < r).sum(-1).clamp(max=len(self.u) - 1)

        out = [pick(past[-1].expand(members, -1))]
        for row in past[-2::-1]:
            out.append(pick(row * self.P[:, out[-1]].T))
        return self.u[torch.stack(out[::-1], 1)]


class Seen:
    r"""y = h(x) + N(0, σ²) at some frames of a scalar trajectory."""

    def __init__(self, y: dict[int, float], sigma: float, h, dtype=torch.float64) -> None:
        self._y, self._sigma, self._h, self._dtype = y, sigma, h, dtype

    def sizes(self, frames):
        return [int(f in self._y) for f in frames]

    def y(self, frames):
        return torch.tensor([self._y[f] for f in frames if f in self._y], dtype=self._dtype)

    def operator(self, x, frames):
        keep = [i for i, f in enumerate(frames) if f in self._y]
        return self._h(x[:, keep, 0])

    def variance(self, frames):
        return torch.full((sum(self.sizes(frames)),), self._sigma**2, dtype=self._dtype)

    def covariance(self, v, frames):
        return v * self._sigma**2


CASES = {
    "x, 0.3, every 8": (range(4, 33, 8), 0.3, lambda z: z),
    "x, 1.0, every 4": (range(0, 33, 4), 1.0, lambda z: z),
    "tanh 2x, 0.3, every 8": (range(4, 33, 8), 0.3, lambda z: torch.tanh(2 * z)),
    "x^2, 0.2, every 8": (range(4, 33, 8), 0.2, lambda z: z * z),
}
