r"""Observations through a decoder: points or the whole field, kept or recomputed, all the same."""

import numpy as np
import pytest
import torch

from hpcinv import assimilation
from hpcinv.assimilation.linearised import Linearised, graph_bytes
from hpcinv.diffusion import noise
from hpcinv.models.autoencoder import Autoencoder

torch.set_num_threads(1)
GRID, LENGTH = (12, 16), 4


class Table:
    frame = np.array([0, 0, 0, 2, 2, 3])
    channel = np.array([0, 1, 1, 0, 1, 0])
    point = np.array([5, 5, 191, 0, 77, 16])
    value = np.linspace(-1, 1, 6)
    error = np.full(6, 0.2)


def decoder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Autoencoder(2, GRID, latent_channels=3, stride=4, width=8, context=2)
    return net.eval().double().requires_grad_(False)


CONTEXT = torch.linspace(-1, 1, 8).double().view(LENGTH, 2)


def likelihood(net, **kwargs):
    return assimilation.PointLikelihood(
        Table, shape=(2, *GRID), decoder=net, context=CONTEXT, dtype=torch.float64, **kwargs
    )


def state(net, n):
    return noise.normal((2, n, *net.latent_shape), seed=0, purpose="z", dtype=torch.float64)


def test_points_are_those_of_the_field():
    net = decoder()
    sparse, dense = likelihood(net), likelihood(net.decode)
    z = state(net, 3)
    want = torch.stack(
        [
            net.decode(z[:, i], CONTEXT[[f, f]])[:, c].flatten(1)[:, p]
            for i, f in enumerate([2, 0, 3])
            for g, c, p in zip(Table.frame, Table.channel, Table.point, strict=True)
            if g == f
        ],
        1,
    )
    assert torch.allclose(dense.operator(z, [2, 0, 3]), want, atol=1e-12)
    assert torch.allclose(sparse.operator(z, [2, 0, 3]), want, atol=1e-10)


@pytest.mark.parametrize("memory", [1e12, 1.0])
@pytest.mark.parametrize("block", [None, 1])
def test_products_are_the_derivative(memory, block):
    net = decoder()
    seen, frames = likelihood(net.decode), [0, 2, 3]
    z = state(net, 3)
    jacobian = torch.autograd.functional.jacobian(
        lambda u: seen.operator(u[None], frames)[0], z[1]
    ).flatten(1)
    cost = graph_bytes(seen, z[:1, :1], 0)
    assert cost > 2 * 8 * np.prod(GRID)  # the decoded frame is among what autograd keeps
    lin = Linearised(seen, z, frames, memory, block, cost)
    assert torch.allclose(lin.value, seen.operator(z, frames), atol=1e-12)
    u = noise.normal((2, 6), seed=1, purpose="u", dtype=torch.float64)
    v = noise.normal(z.shape, seed=2, purpose="v", dtype=torch.float64)
    for _ in range(2):  # the graph serves more than once
        assert torch.allclose(lin.vjp(u)[1].flatten(), jacobian.T @ u[1], atol=1e-10)
        assert torch.allclose(lin.jvp(v)[1], jacobian @ v[1].flatten(), atol=1e-10)


def test_decoder_error_is_in_the_covariance():
    class Error:
        def covariance(self, points, channels):
            d = points[:, None] - points[None]
            return 0.3 * np.exp(-(d**2) / 50.0) * (channels[:, None] == channels[None])

    seen = likelihood(None, decoder_error=Error())
    want = torch.eye(3).double() * (0.04 + 0.3)
    got = seen.covariance(torch.eye(3).double(), [0])
    off = 0.3 * np.exp(-((191 - 5) ** 2) / 50.0)
    want[1, 2] = want[2, 1] = off
    assert torch.allclose(got, want, atol=1e-12)
    assert torch.allclose(seen.variance([0, 2]), torch.full((5,), 0.34).double())
    eye = torch.eye(6).double()
    whole = seen.covariance(eye, [0, 2, 3])
    assert torch.equal(whole[:3, 3:], torch.zeros(3, 3).double())  # blocks of frames
