r"""A sampler's law in closed form, where denoiser and operator are linear: no members, no noise.

With linear parts each guided call is x -> D x + E y, and each step of a sampler adds noise of
known amplitude. D and E are read off the engine itself, matrix-free as it is: one guided call on
unit vectors per noise level. Then the engine's own `Sampler` is run on columns of a square root of
the covariance of x and on the columns of its dependence on y, the former made as many as x has
entries again after each step. What comes out is the law of the members, given any y.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from hpcinv.assimilation.composition import compose
from hpcinv.assimilation.config import GuidanceConfig, SamplerConfig, settings
from hpcinv.assimilation.exchange import Exchange
from hpcinv.assimilation.guidance import Estimate, Guidance
from hpcinv.assimilation.network import Network
from hpcinv.assimilation.samplers import Sampler
from hpcinv.assimilation.schedule import levels
from hpcinv.assimilation.slab import Slab

__all__ = ["Engine"]


class _Impulses:
    r"""A likelihood whose member ``state + j`` has y = e_j, the members before it y = 0."""

    def __init__(self, likelihood, length: int, state: int, ids: Sequence[int] = ()) -> None:
        self._all, self._state, self._length, self._ids = likelihood, state, length, ids
        self.linear = True
        self.sizes, self.operator = likelihood.sizes, likelihood.operator
        self.covariance, self.variance = likelihood.covariance, likelihood.variance
        self._first = [0]
        for n in likelihood.sizes(range(length)):
            self._first.append(self._first[-1] + n)

    def for_members(self, ids: Sequence[int]):
        return _Impulses(self._all, self._length, self._state, ids)

    def y(self, frames: Sequence[int]) -> Tensor:
        at = [j for f in frames for j in range(self._first[f], self._first[f + 1])]
        rows = [[float(i - self._state == j) for j in at] for i in self._ids or [0]]
        return torch.tensor(rows, dtype=torch.float64)


class Engine:
    r"""The guided calls of one setting of `sample`, as matrices.

    Arguments:
        likelihood: A linear likelihood; its values are not used.
        shape, length, denoiser, window, overlap, rule, coarse, guidance, markov: As `sample`'s.
    """

    def __init__(
        self, likelihood, *, shape, length, denoiser, window, overlap=0, compose_="center",
        coarse=None, guidance=None, markov=None,
    ) -> None:  # fmt: skip
        self.length, self.shape = length, shape
        self.size = length * int(torch.tensor(shape).prod())
        self.seen = sum(likelihood.sizes(range(length)))
        terms = compose(compose_, length, window, overlap, coarse)
        exchange = Exchange(terms, length)
        network = Network(denoiser, coarse and coarse.denoiser, None, 1 << 20)
        observed = [f for f, n in enumerate(likelihood.sizes(range(length))) if n]
        self.guidance = Guidance(
            Slab(exchange, network), settings(GuidanceConfig, guidance, "guidance"),
            _Impulses(likelihood, length, self.size), observed, None, False, markov,
        )  # fmt: skip
        self.schedule = denoiser.schedule
        self.per_frame = sum(len(t.frames) for t in terms) / length
        self.seconds: list[float] = []
        self._known: dict[float, tuple[Tensor, Tensor]] = {}

    def matrices(self, level) -> tuple[Tensor, Tensor]:
        r"""Dᵀ and Eᵀ at a level."""

        if level.sigma not in self._known:
            n, m = self.size, self.seen
            x = torch.cat([torch.eye(n), torch.zeros(m, n)]).double()
            began = time.perf_counter()
            mean = self.guidance(x.view(n + m, self.length, *self.shape), level, range(n + m)).mean
            self.seconds.append(time.perf_counter() - began)
            self._known[level.sigma] = mean.flatten(1)[:n], mean.flatten(1)[n:]
        return self._known[level.sigma]

    def law(self, sampler) -> tuple[Tensor, Tensor, dict]:
        r"""The members' law: mean = M y, covariance P; and what a run of it costs.

        Returns:
            M with shape (n, m), P with shape (n, n), figures.
        """

        config = settings(SamplerConfig, sampler, "sampler")
        run = Sampler(config, levels(self.schedule, config, torch.float64))
        n, m = self.size, self.seen
        purposes = [f"correction {k}" for k in range(config.corrections)]
        purposes += ["correction start"] * bool(purposes)
        if config.method in ("ddpm", "ddim"):
            purposes.append("step")

        def noise(first: int, names: Sequence[str], rows: int):
            def draw(purpose: str) -> Tensor:
                out = torch.zeros(rows, n, dtype=torch.float64)
                at = first + n * names.index(purpose)
                out[at : at + n] = torch.eye(n)
                return out.view(rows, self.length, *self.shape)

            return draw

        def denoise(x: Tensor, level) -> Estimate:
            D, E = self.matrices(level)
            mean = x.flatten(1) @ D
            mean[-m:] += E
            return Estimate(mean.view_as(x))

        # Columns of the covariance's root, then one for each observation.
        x = run.start(noise(0, ["start"], n + m))
        past: list[Tensor] = []
        for i in range(config.steps):
            k, fresh = len(x) - m, n * len(purposes)

            def grow(t: Tensor, k=k, fresh=fresh) -> Tensor:
                return torch.cat([t[:k], t.new_zeros(fresh, *t.shape[1:]), t[k:]])

            x, past = run.step(
                i, grow(x), [grow(t) for t in past], denoise, noise(k, purposes, k + fresh + m)
            )
            every = torch.cat([t.flatten(1) for t in (x, *past)], 1)
            root = every[:-m]
            if len(root) > every.shape[1]:
                root = torch.linalg.qr(root, mode="r")[1]
            every = torch.cat([root, every[-m:]])
            x, *past = (t.view(-1, self.length, *self.shape) for t in every.split(n, 1))
        x = run.finish(x, denoise).flatten(1)

        figures = self.guidance.figures
        return x[-m:].T, x[:-m].T @ x[:-m], {
            "calls": config.calls,
            "per_frame": config.calls * self.per_frame,
            # of as many members as there were unit vectors
            "seconds": config.calls * sorted(self.seconds)[len(self.seconds) // 2],
            "members": n + m,
            "residual": max(figures.residuals.values(), default=0.0),
            "events": len(figures.events),
        }  # fmt: skip
