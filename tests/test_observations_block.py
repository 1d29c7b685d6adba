"""Averages over blocks of a grid without geography."""

import numpy as np
import pytest

from hpcinv.observations.stencils import horizontal


class Square:
    """Waves on a square that closes on itself along its second axis alone."""

    def __init__(self):
        self.grid, self.mask = (10, 12), None
        self.coords = {"y": np.arange(10.0), "x": np.arange(12) * 2 * np.pi / 12}
        self.coord_attrs = {"y": {"units": "1"}, "x": {"units": "1", "period": 2 * np.pi}}


@pytest.mark.parametrize("cells", [3, 5])
def test_a_wave_is_damped_as_it_must_be(cells):
    s, n = Square(), cells // 2
    point = np.arange(120)
    flat, w = horizontal(s, "block", cells, point, point * np.nan, point * np.nan)
    x = np.tile(s.coords["x"], 10)
    wave = np.cos(3 * x + 0.4)
    gain = (1 + 2 * np.cos(3 * 2 * np.pi / 12 * np.arange(1, n + 1)).sum()) / cells
    assert np.allclose((wave[flat] * w).sum(1), gain * wave, atol=1e-12)
    # Along y the block ends at the edge: the mean of the rows that are there.
    y = np.repeat(s.coords["y"], 12)
    inside = [[r for r in range(k - n, k + n + 1) if 0 <= r < 10] for k in range(10)]
    rows = np.array([np.mean(r) for r in inside])
    assert np.allclose((y[flat] * w).sum(1), np.repeat(rows, 12), atol=1e-12)
