r"""What is done with a covariance that is known by its products alone: solve, and draw.

Vectors are rows, treated together: each product serves all of them.
"""

from __future__ import annotations

__all__ = ["conjugate_gradients", "lanczos_root"]

from collections.abc import Callable

import numpy as np

from ..errors import BadInput

Product = Callable[[np.ndarray], np.ndarray]
MOST = 1000  # products
ADVICE = ("errors: length_km", "Give a shorter length, or a smaller share.")


def conjugate_gradients(
    product: Product, diagonal: np.ndarray, v: np.ndarray, tolerance: float = 1e-10
) -> np.ndarray:
    r""":math:`A^{-1} v`, A positive, preconditioned by its diagonal.

    Arguments:
        product: Rows :math:`(k, D)` times A.
        diagonal: Of A, with shape :math:`(D)`.
        v: With shape :math:`(k, D)`.
        tolerance: Of the largest residual, of the largest right-hand side.

    Raises:
        BadInput: If it is not reached.
    """
    x = np.zeros_like(v, dtype=np.float64)
    r = v.astype(np.float64)
    z = r / diagonal
    p, rho = z.copy(), (r * z).sum(1, keepdims=True)
    first = np.sqrt((r**2).sum(1)).max(initial=0.0)
    for _ in range(MOST):
        if np.sqrt((r**2).sum(1)).max(initial=0.0) <= tolerance * first:
            return x
        q = product(p)
        down = (p * q).sum(1, keepdims=True)
        alpha = np.divide(rho, down, out=np.zeros_like(rho), where=down > 0)
        x, r = x + alpha * p, r - alpha * q
        z = r / diagonal
        new = (r * z).sum(1, keepdims=True)
        p = z + np.divide(new, rho, out=np.zeros_like(rho), where=rho > 0) * p
        rho = new
    raise BadInput(
        f"a covariance of {len(diagonal)} errors is not solved in {MOST} steps", *ADVICE
    )


def lanczos_root(product: Product, z: np.ndarray, tolerance: float = 1e-8) -> np.ndarray:
    r""":math:`A^{1/2} z`, A positive: of white rows z, draws of :math:`N(0, A)`.

    :math:`|z| \, V T^{1/2} e_1` with Lanczos' V and T (Chow & Saad 2014,
    doi:10.1137/130920587), vectors kept orthogonal to all before.

    Arguments:
        product: Rows :math:`(k, D)` times A.
        z: With shape :math:`(k, D)`.
        tolerance: Of the last step's change, of the result.

    Raises:
        BadInput: If it is not reached.
    """
    size = np.linalg.norm(z, axis=1)
    v = z / np.maximum(size, 1e-300)[:, None]
    V, a, b = [v], [], []
    before = None
    for _ in range(min(MOST, z.shape[1])):
        w = product(V[-1])
        a.append((w * V[-1]).sum(1))
        for _ in range(2):  # twice is enough
            for u in V:
                w = w - (w * u).sum(1, keepdims=True) * u
        b.append(np.linalg.norm(w, axis=1))
        T = np.zeros((len(z), len(a), len(a)))
        i = np.arange(len(a))
        T[:, i, i] = np.stack(a, 1)
        if len(a) > 1:
            T[:, i[1:], i[:-1]] = T[:, i[:-1], i[1:]] = np.stack(b[:-1], 1)
        s, Q = np.linalg.eigh(T)
        c = np.einsum("kij,kj->ki", Q, np.sqrt(np.maximum(s, 0)) * Q[:, 0]) * size[:, None]
        done = b[-1].max() < 1e-12
        if before is not None:
            change = c.copy()
            change[:, :-1] -= before  # V is orthonormal: its coefficients' change is the result's
            done |= np.linalg.norm(change) <= tolerance * np.linalg.norm(c)
        if done or len(a) == z.shape[1]:
            return np.einsum("ki,ikd->kd", c, np.stack(V))
        before = c
        V.append(w / np.maximum(b[-1], 1e-300)[:, None])
    raise BadInput(f"a covariance of {z.shape[1]} errors has no root in {MOST} steps", *ADVICE)
