"""One step of MMPS from samples against the conditional mean of a Gaussian."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts" / "benchmarks"))

import lorenz_guidance


def test_update_is_exact_for_a_gaussian():
    rng = np.random.default_rng(0)
    L, n, offset, scale = 4, 2, 1.5, 3.0
    root = rng.standard_normal((L * n, L * n)) / 2
    C = root @ root.T
    x = (rng.standard_normal((200_000, L * n)) @ root.T).reshape(-1, L, n)
    table = SimpleNamespace(
        frame=np.array([0, 3]), value=np.array([4.0, -2.0]), error=np.array([0.6, 0.9])
    )
    at = table.frame * n  # the first number
    S = C[np.ix_(at, at)] + np.diag((table.error / scale) ** 2)
    wanted = C[:, at] @ np.linalg.solve(S, (table.value - offset) / scale)
    found = lorenz_guidance.update(x, table, (offset, scale))
    np.testing.assert_allclose(found.ravel(), wanted, atol=0.03)
