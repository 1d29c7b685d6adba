r"""A posterior: a normalising flow of parameters, conditioned on an observation.

Parameters :math:`\theta` inside bounds become numbers without any by the normal quantile of
their place between the bounds,

.. math:: z = \Phi^{-1}\!\left(\frac{\theta - \theta_{low}}{\theta_{high} - \theta_{low}}\right),

in the logarithm where their scale says so. A uniform prior becomes exactly standard normal, which
is the base of the flow: what the data do not tell is learnt at once, and no sample can leave the
prior's box. Parameters without bounds are only standardised.
"""

from __future__ import annotations

__all__ = ["PosteriorFlow"]

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
import zuko
from torch import Tensor

from hpcinv.models.autoregressive import inverse
from hpcinv.models.embeddings import embedding as build_embedding
from hpcinv.models.spline import Spline

FLOWS = ("nsf", "maf", "naf")
EDGE = 1e-7  # of the way from a bound to the other: as near as single precision tells apart


class Member(nn.Module):
    r"""One flow of the ensemble, with the embedding that feeds it."""

    def __init__(self, embedding: nn.Module, flow: nn.Module) -> None:
        super().__init__()
        self.embedding, self.flow = embedding, flow

    def context(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.embedding(x, mask)


def _flow(
    kind: str, features: int, context: int, transforms: int, hidden: list[int], bins: int,
    coupling: bool,
) -> nn.Module:  # fmt: skip
    passes = 2 if coupling and features > 1 else None
    # Coupling layers leave half of the parameters alone: which half has to change.
    common = {"transforms": transforms, "randperm": passes is not None}
    if kind == "nsf":  # zuko's NSF, with a faster pass
        return zuko.flows.MAF(
            features, context, passes=passes, hidden_features=hidden, univariate=Spline,
            shapes=[(bins,), (bins,), (bins - 1,)], **common,
        )  # fmt: skip
    if kind == "maf":
        return zuko.flows.MAF(features, context, passes=passes, hidden_features=hidden, **common)
    if kind == "naf":
        return zuko.flows.NAF(features, context, passes=passes, hidden_features=hidden, **common)
    raise ValueError(f"there is no flow named {kind!r}: choose among {', '.join(FLOWS)}")


class PosteriorFlow(nn.Module):
    r"""An ensemble of conditional flows :math:`q(\theta \mid x)`, mixed.

    Splines draw any shape; affine flows (`maf`) overfit less where a posterior is nearly Gaussian,
    and are half as wide. The weights of the mixture are fitted on withheld simulations
    (:meth:`fit_weights`), so that each posterior finds the flows that suit it.

    Arguments:
        parameters: For each parameter its `name`, and where it has them `low`, `high` (both or
            none) and `scale` (`linear` or `log`); other keys are kept for people.
        shape: The shape :math:`S` of an observation.
        flows: One of `nsf` (splines), `maf` (affine) or `naf` (monotone networks) for each member.
        transforms: Autoregressive transformations of a flow.
        width: Hidden features of the networks inside the flow, twice.
        bins: Bins of the splines.
        coupling: Whether transformations are coupling layers: sampling takes two network calls
            a transformation instead of one for each parameter, for a less flexible density.
        embedding: Fields of :func:`hpcinv.models.embeddings.embedding`.
        missing: Whether values of an observation may be missing (NaN).
    """

    def __init__(
        self,
        parameters: Sequence[Mapping[str, Any]],
        shape: Sequence[int],
        flows: Sequence[str] = ("nsf",),
        transforms: int = 3,
        width: int = 64,
        bins: int = 8,
        coupling: bool = False,
        embedding: Mapping[str, Any] | None = None,
        missing: bool = False,
    ) -> None:
        super().__init__()
        self.names = [str(p["name"]) for p in parameters]
        self.shape, self.missing = tuple(int(n) for n in shape), missing
        P = len(self.names)
        self.members = nn.ModuleList()
        for kind in flows:
            fields, hidden = dict(embedding or {}), width
            if kind == "maf":
                hidden = -(-width // 2)
                fields |= {k: -(-fields.get(k, 64) // 2) for k in ("features", "width")}
            features = build_embedding(self.shape, missing, **fields)
            density = _flow(kind, P, features.features, transforms, [hidden] * 2, bins, coupling)
            self.members.append(Member(features, density))
        E = len(self.members)
        self.register_buffer("weights", torch.full((E,), 1 / E))
        low = [p.get("low") for p in parameters]
        bounded = torch.tensor([v is not None for v in low])
        log = torch.tensor([p.get("scale", "linear") == "log" for p in parameters])
        ends = []
        for key, other in (("low", 0.0), ("high", 1.0)):
            v = [other if p.get(key) is None else float(p[key]) for p in parameters]
            v = [math.log(e) if is_log else e for e, is_log in zip(v, log.tolist(), strict=True)]
            ends.append(torch.tensor(v, dtype=torch.float64))
        for name, value in (
            ("bounded", bounded),
            ("log", log),
            ("low", ends[0]),
            ("high", ends[1]),
        ):
            self.register_buffer(name, value, persistent=False)
        self.register_buffer("x_mean", torch.zeros(self.shape))
        self.register_buffer("x_std", torch.ones(self.shape))
        self.register_buffer("z_mean", torch.zeros(P))
        self.register_buffer("z_std", torch.ones(P))

    # --- parameters, with and without bounds ---------------------------------------------------

    def unbounded(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        r"""Maps parameters to numbers without bounds, not yet standardised.

        Arguments:
            theta: Parameters, with shape :math:`(*, P)`.

        Returns:
            :math:`z` and :math:`\sum_p \log |dz_p / d\theta_p|`, in double precision; outside
            the bounds the latter is :math:`-\infty`.
        """
        theta = theta.double()
        t = torch.where(self.log, theta.clamp_min(1e-300).log(), theta)
        ladj = torch.where(self.log, -t, torch.zeros_like(t))
        u = (t - self.low) / (self.high - self.low)
        inside = (u >= 0) & (u <= 1)
        z = torch.special.ndtri(u.clamp(EDGE, 1 - EDGE))
        # d(probit)/du = 1 / phi(z)
        slope = 0.5 * z.square() + 0.5 * math.log(2 * math.pi) - (self.high - self.low).log()
        slope = torch.where(inside, slope, torch.full_like(slope, -torch.inf))
        return torch.where(self.bounded, z, t), (ladj + torch.where(self.bounded, slope, 0.0)).sum(
            -1
        )

    def bounded_from(self, z: Tensor) -> Tensor:
        r"""The inverse of :meth:`unbounded`: parameters, in double precision."""
        z = z.double()
        t = self.low + (self.high - self.low) * torch.special.ndtr(z)
        t = torch.where(self.bounded, t, z)
        return torch.where(self.log, t.exp(), t)

    def standardised(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        r"""What the flow sees: standardised numbers without bounds, and the log-Jacobian."""
        z, ladj = self.unbounded(theta)
        w = ((z - self.z_mean) / self.z_std).to(self.z_mean.dtype)
        return w, ladj - self.z_std.double().log().sum()

    def restored(self, w: Tensor) -> Tensor:
        r"""The inverse of :meth:`standardised`."""
        return self.bounded_from(w.double() * self.z_std.double() + self.z_mean.double())

    # --- observations --------------------------------------------------------------------------

    def _seen(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.isfinite(x)
        x = torch.where(mask, (x - self.x_mean) / self.x_std, torch.zeros_like(x))
        # A value far outside of what was simulated must not blow up: linear to 10, then slower.
        far = x.abs() > 10
        x = torch.where(far, x.sign() * (10 + (x.abs() - 10).clamp_min(0).log1p()), x)
        return x.to(self.dtype), mask

    @property
    def dtype(self) -> torch.dtype:
        r"""The precision in which the networks compute."""
        return next(self.members.parameters()).dtype

    def contexts(self, x: Tensor) -> list[Tensor]:
        r"""The embedding of observations by each member, with shapes :math:`(B, F)`.

        Arguments:
            x: Observations in their own units, NaN where missing, shape :math:`(B, *S)`.
        """
        x, mask = self._seen(x)
        return [m.context(x, mask) for m in self.members]

    def features(self, x: Tensor) -> Tensor:
        r"""The embeddings of all members side by side, with shape :math:`(B, E F)`."""
        return torch.cat(self.contexts(x), dim=1)

    # --- densities and samples -----------------------------------------------------------------

    def log_probs(self, theta: Tensor, x: Tensor) -> Tensor:
        r"""The log density under each member, with shape :math:`(E, B)`.

        Arguments:
            theta: Parameters, with shape :math:`(B, P)`.
            x: Observations, with shape :math:`(B, *S)`.
        """
        w, ladj = self.standardised(theta)
        w = w.to(self.dtype)
        found = [
            m.flow(c).log_prob(w) for m, c in zip(self.members, self.contexts(x), strict=True)
        ]
        return torch.stack(found).double() + ladj

    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        r"""The log density of the mixture, per unit of the parameters, with shape :math:`(B)`."""
        return self._mixed(self.log_probs(theta, x))

    def _mixed(self, found: Tensor) -> Tensor:
        r"""Log densities of the members, (E, ...), to that of their mixture."""
        weights = self.weights.double().log().reshape(-1, *[1] * (found.ndim - 1))
        return (found.double() + weights).logsumexp(0)

    @torch.no_grad()
    def fit_weights(self, found: Tensor, rounds: int = 200) -> None:
        r"""Fits the mixture's weights by expectation-maximisation.

        Arguments:
            found: Log densities of withheld simulations under the members, with shape (E, n).
            rounds: Its iterations. A member of less than a hundredth gets no weight at all.
        """
        log = found.double()
        w = torch.full((len(log),), 1 / len(log), dtype=torch.float64, device=log.device)
        for _ in range(rounds):
            share = torch.softmax(log + w.log()[:, None], dim=0).mean(1)
            w = share / share.sum()
        w = torch.where(w < 0.01, 0.0, w)
        self.weights.copy_(w / w.sum())

    def draw(
        self, base: Tensor, contexts: list[Tensor], member: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Samples of one member from standard normal numbers.

        Arguments:
            base: Standard normal numbers, with shape :math:`(N, B, P)`.
            contexts: What :meth:`contexts` gave for B observations.
            member: The member.

        Returns:
            The samples, with shape :math:`(N, B, P)`, their standardised numbers, and the
            member's log density of the latter, with shape :math:`(N, B)`.
        """
        flow, context = self.members[member].flow, contexts[member]
        base = base.to(self.dtype)
        w, ladj = inverse(flow, context, base)
        return self.restored(w), w, flow(context).base.log_prob(base) + ladj

    def mixture(
        self, w: Tensor, contexts: list[Tensor], given: tuple[int, Tensor] | None = None
    ) -> Tensor:
        r"""The mixture's log density of standardised numbers, with shape :math:`(N, B)`.

        Arguments:
            w: Standardised numbers, with shape :math:`(N, B, P)`.
            contexts: What :meth:`contexts` gave for B observations.
            given: A member whose density is known already, and that density.
        """
        found = []
        for k, (m, c) in enumerate(zip(self.members, contexts, strict=True)):
            if self.weights[k] == 0:  # not asked: its density does not count
                found.append(torch.zeros_like(w[..., 0]))
            else:
                known = given is not None and k == given[0]
                found.append(given[1] if known else m.flow(c).log_prob(w))
        return self._mixed(torch.stack(found))

    def jacobian(self, theta: Tensor) -> Tensor:
        r""":math:`\log |dw / d\theta|`: what turns densities of :math:`w` into those of theta."""
        return self.standardised(theta)[1]
