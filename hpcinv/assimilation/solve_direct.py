r"""Small systems solved whole, by their eigenvectors: for windows that see few observations.

A learnt denoiser's Jacobian is neither symmetric nor positive. Conjugate gradients stop, or go
wrong, where it is not; here the covariance of what is observed is made of one product for each
observation of a window, its antisymmetric part is dropped, and so is what it says along
directions in which a variance would be negative: the prior has no say on how far to go there.
"""

from __future__ import annotations

__all__ = ["allowed", "direct"]

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import BadInput
from .config import LARGEST
from .solve import Image, Solution

NEGATIVE = 0.1  # of an error variance: a covariance more negative than that is told


def direct(
    product: Callable[[Tensor], tuple[Tensor, Image]],
    noise: Callable[[Tensor], Tensor],
    b: Tensor,
    system: Tensor,
    systems: int,
    combine: Callable[[Image | None, Tensor, Image], Image],
) -> Solution:
    r"""Solves (R + S) w = b with the positive part of S, system by system.

    With :math:`R = L L^\top` and :math:`L^{-1} S L^{-\top} = V \Lambda V^\top` after
    symmetrisation, :math:`w = L^{-\top} \sum_{\lambda > 0} v (1 + \lambda)^{-1} v^\top L^{-1} b`.

    Arguments:
        product: Maps p ``(B, D)`` to (R + S) p and its image in state space.
        noise: Maps p to R p.
        b: The right-hand side, with shape ``(B, D)``.
        system: The system of each entry, with shape ``(D)``.
        systems: Their number.
        combine: Adds coefficients ``(B, systems)`` times an image to another.

    Raises:
        BadInput: If a system has more than `LARGEST` entries.
    """
    b, B = b.double(), len(b)
    place = _places(system, systems)
    m = int(place.max()) + 1 if len(place) else 0
    allowed(m)
    shape = (B, systems, max(m, 1), max(m, 1))
    R, S = b.new_zeros(shape), b.new_zeros(shape)
    images = []
    for k in range(max(m, 1)):
        e = (place == k).to(b).expand_as(b)
        whole, image = product(e)
        error = noise(e).double()
        R[:, system, place, k], S[:, system, place, k] = error, whole.double() - error
        images.append(image)
    entries = torch.bincount(system, minlength=systems)
    beyond = torch.arange(shape[-1]) >= entries[:, None]  # places that a system has not
    R.diagonal(dim1=-2, dim2=-1).add_(beyond.to(b))
    right = b.new_zeros(shape[:-1])
    right[:, system, place] = b

    finite = torch.isfinite(S).all(-1).all(-1) & torch.isfinite(right).all(-1)
    S = torch.where(finite[..., None, None], S, 0.0)
    L = torch.linalg.cholesky(R)
    S = torch.linalg.solve_triangular(L, (S + S.mT) / 2, upper=False)
    S = torch.linalg.solve_triangular(L, S.mT, upper=False)
    values, vectors = torch.linalg.eigh((S + S.mT) / 2)
    u = torch.linalg.solve_triangular(L, right[..., None], upper=False)
    share = (vectors * u).sum(-2) * torch.where(values > 0, 1 / (1 + values), 0.0)
    w = (vectors * share[..., None, :]).sum(-1)
    w = torch.linalg.solve_triangular(L.mT, w[..., None], upper=True)[..., 0]
    w = torch.where(finite[..., None], w, 0.0)

    total: Image | None = None
    for k, image in enumerate(images):
        total = combine(total, w[..., k], image)
    seen = (entries > 0).to(b.device)
    negative = (values[..., 0] < -NEGATIVE) & seen
    return Solution(
        total, w[:, system, place], torch.zeros_like(w[..., 0]), ~finite & seen, negative,
        len(images),
    )  # fmt: skip


def allowed(m: int) -> None:
    r"""Refuses a window of too many observations.

    Raises:
        BadInput: If there are more than `LARGEST`.
    """
    if m > LARGEST:
        raise BadInput(
            f"a window sees {m} observations, and a direct solve takes a product of the network "
            f"for each (at most {LARGEST})", "guidance.solver", "Write 'solver: cg'.",
        )  # fmt: skip


def _places(system: Tensor, systems: int) -> Tensor:
    r"""The number of each entry within its system, with shape ``(D)``."""
    place = torch.zeros_like(system)
    for k in range(systems):
        mine = system == k
        place[mine] = torch.arange(int(mine.sum()))
    return place
