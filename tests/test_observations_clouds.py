r"""Clouds: what a Gaussian field below a quantile hides is known in closed form."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm
from test_observations_networks import truth

from hpcinv.errors import BadInput
from hpcinv.models.sphere import EARTH_RADIUS_KM
from hpcinv.observations.clouds import hidden
from hpcinv.observations.networks import draw
from hpcinv.observations.networks_config import Clouds, CoarseGrid

SHARE, L = 0.6, 400.0


def both_hidden(correlation: float) -> float:
    q = norm.ppf(SHARE)
    cov = [[1, correlation], [correlation, 1]]
    return multivariate_normal([0, 0], cov).cdf([q, q])


def frames(n: int, lat, lon, **more):
    clouds = Clouds(share=SHARE, length_km=L, **more)
    # Other seeds, other waves: over them all the field is Gaussian.
    return np.stack([hidden(clouds, lat, lon, 0, seed=s) for s in range(n)])


def test_share_and_size_of_clouds_are_those_of_the_gaussian_field():
    km = np.array([0.0, 100.0, 300.0, 600.0, 2000.0])
    lat = np.full(5, 10.0)  # places along a meridian instead: great circles are simple there
    lat, lon = 10 + np.degrees(km / EARTH_RADIUS_KM), np.full(5, 30.0)
    under = frames(3000, lat, lon)
    assert under.mean(0) == pytest.approx(SHARE, abs=0.03)
    chord = 2 * EARTH_RADIUS_KM * np.sin(km / EARTH_RADIUS_KM / 2)
    for k, r in enumerate(chord):
        expected = both_hidden(min(np.exp(-(r**2) / (2 * L**2)), 1 - 1e-9))
        assert (under[:, 0] & under[:, k]).mean() == pytest.approx(expected, abs=0.03), km[k]


def test_clouds_remember_from_frame_to_frame():
    lat, lon = np.linspace(-80, 80, 9), np.linspace(0, 320, 9)
    for memory in (0.0, 0.8):
        clouds = Clouds(share=SHARE, length_km=L, memory=memory)
        pairs = [
            [hidden(clouds, lat, lon, t, seed=s) for t in (5, 6)] for s in range(500)
        ]  # 4,500 places, nine of them far from each other
        now, then = np.array(pairs).transpose(1, 0, 2)
        assert (now & then).mean() == pytest.approx(both_hidden(memory), abs=0.03), memory


def test_a_network_sees_what_is_clear_and_the_same_numbers_there():
    world = truth()
    base = {"stride": 4, "error": 0.1}
    plain = draw(CoarseGrid(network="grid", **base), world, start=0, stop=6, seed=3)
    clouds = Clouds(share=SHARE, length_km=1500.0, channels=[world.channels[0]])
    seen = draw(CoarseGrid(network="grid", clouds=clouds, **base), world, start=0, stop=6, seed=3)
    key = lambda t: list(zip(t.frame, t.channel, t.point, strict=True))  # noqa: E731
    value = dict(zip(key(plain), plain.value, strict=True))
    under = {
        t: hidden(clouds, plain.lat[plain.frame == t], plain.lon[plain.frame == t], t, seed=3)
        for t in range(6)
    }
    want = np.concatenate([~(under[t] & (plain.channel[plain.frame == t] == 0)) for t in range(6)])
    assert 0.3 < (~want)[plain.channel == 0].mean() < 0.9
    assert key(seen) == [k for k, w in zip(key(plain), want, strict=True) if w]
    assert seen.value.tolist() == [value[k] for k in key(seen)]
    # ... whichever frames are asked for
    some = draw(
        CoarseGrid(network="grid", clouds=clouds, **base),
        world, start=0, stop=6, seed=3, within=range(4, 5),
    )  # fmt: skip
    assert key(some) == [k for k in key(seen) if k[0] == 4]


def test_what_clouds_cannot_hide_is_said():
    world = truth()
    clouds = {"share": 0.5, "length_km": 100.0}
    with pytest.raises(BadInput, match="unknown variable 'x7'"):
        draw(
            CoarseGrid(network="grid", clouds=clouds | {"channels": ["x7"]}),
            world,
            start=0,
            stop=1,
        )
    with pytest.raises(BadInput, match="without latitudes"):
        hidden(Clouds(**clouds), np.array([np.nan]), np.array([0.0]), 0, seed=0)
    with pytest.raises(BadInput, match="no frame is observed"):
        draw(
            CoarseGrid(network="grid", clouds=clouds | {"share": 1 - 1e-12}, stride=9),
            world, start=0, stop=1,
        )  # fmt: skip
