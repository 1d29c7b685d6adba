"""Moments made in parts: those of all frames, whoever made which."""

import numpy as np

from hpcinv.io.phase_moments import PhaseMoments


def test_merged_parts_have_the_moments_of_all_frames():
    rng = np.random.default_rng(0)
    x = (300 + rng.standard_normal((50, 2, 3))).astype(np.float32)  # a mean far above the spread
    phases = np.arange(50) % 4
    whole = PhaseMoments(4, (2, 3))
    for a, b in [(0, 1), (1, 2), (2, 17), (17, 50)]:  # the first two lack phases
        part = PhaseMoments(4, (2, 3))
        part.add(x[a:b], phases[a:b])
        whole.merge(part.arrays)
    for p in range(4):
        of = x[phases == p].astype(np.float64)
        assert whole.count[p] == len(of)
        assert np.allclose(whole.mean[p], of.mean(0), rtol=1e-13)
        assert np.allclose(whole.spread[p] / len(of), of.var(0), rtol=1e-9)
