"""The mode of a window against the Gaussian conditional mean of a linear chain."""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts" / "benchmarks"))

import lorenz_prior


def test_mode_of_a_linear_chain_is_its_conditional_mean():
    W, n, q = 5, 2, 0.3
    A = torch.tensor([[0.9, 0.4], [-0.3, 0.8]], dtype=torch.float64)
    error = torch.tensor([0.5, 1.5], dtype=torch.float64)
    y = torch.from_numpy(np.random.default_rng(0).standard_normal((3, W, n)))
    # x = F (first frame, noises): nothing is known of the first, the noises have deviation q.
    power = [torch.matrix_power(A, k) for k in range(W)]
    F = torch.cat(
        [torch.cat([power[i - j] if i >= j else 0 * A for j in range(W)], 1) for i in range(W)]
    )
    size = torch.cat([torch.full((n,), 1e8), torch.full((n * (W - 1),), q**2)]).double()
    C = F @ torch.diag(size) @ F.T
    wanted = torch.linalg.solve(C + torch.diag(error.repeat(W) ** 2), y.reshape(3, -1).T)
    found = lorenz_prior.mode(y, error, lambda x: x @ A.T, q, steps=2)
    torch.testing.assert_close(found.reshape(3, -1), (C @ wanted).T, atol=1e-5, rtol=1e-5)
