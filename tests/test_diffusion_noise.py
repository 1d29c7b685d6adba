r"""Keyed noise: names decide the numbers, and nothing else does."""

import numpy as np
import torch

from hpcinv.diffusion import noise


def test_names_decide_and_nothing_else():
    a = noise.normal((3, 5), seed=1, purpose="start", member=2, frame=7, step=4)
    torch.manual_seed(123)
    noise.normal((100,), seed=9, purpose="other")
    b = noise.normal((3, 5), seed=1, purpose="start", member=2, frame=7, step=4)
    assert torch.equal(a, b)

    changed = [
        {"seed": 2},
        {"purpose": "step"},
        {"member": 3},
        {"frame": 8},
        {"step": 5},
        {"member": 7, "frame": 2},  # the same integers under other names
    ]
    names = {"seed": 1, "purpose": "start", "member": 2, "frame": 7, "step": 4}
    for change in changed:
        c = noise.normal((3, 5), **{**names, **change})
        assert (a - c).abs().min() > 0


def test_frames_are_the_single_draws():
    block = noise.frames(
        (2, 3), seed=0, purpose="step", member=1, frames=[4, 9, 5], step=6, dtype=torch.float64
    )
    for row, frame in zip(block, [4, 9, 5], strict=True):
        one = noise.normal(
            (2, 3), seed=0, purpose="step", member=1, frame=frame, step=6, dtype=torch.float64
        )
        assert torch.equal(row, one)


def test_precision_does_not_change_the_draw():
    one = noise.normal((1000,), seed=0, purpose="x", dtype=torch.float64)
    two = noise.normal((1000,), seed=0, purpose="x", dtype=torch.float32)
    assert torch.equal(one.float(), two)


def test_distribution():
    x = noise.frames((1000,), seed=3, purpose="x", member=0, frames=range(200))
    assert abs(float(x.mean())) < 0.01 and abs(float(x.var()) - 1) < 0.01
    r = torch.corrcoef(x)  # frames are independent
    assert float((r - torch.eye(200)).abs().max()) < 0.2
    u = noise.uniform((200000,), seed=3, purpose="u")
    assert abs(float(u.mean()) - 0.5) < 0.005 and float(u.min()) >= 0 and float(u.max()) < 1


def test_many_rows_at_once_are_philox_and_normal():
    from scipy.stats import kstest

    from hpcinv.diffusion import many

    # Known answers of Philox 4x32-10 (Random123, kat_vectors).
    for word, key, told in (
        (0, 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (0xFFFFFFFF, 0xFFFFFFFF, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ):
        found = many.philox(np.full((4, 1), word, np.uint64), (key, key))
        assert [f"{int(v):08x}" for v in found[:, 0]] == told.split()

    ids = (np.arange(4000), np.full(4000, 3))
    x = many.normals((5,), seed=1, purpose="a", ids=ids)
    assert kstest(x.ravel(), "norm").pvalue > 0.01
    assert np.abs(np.corrcoef(x.T) - np.eye(5)).max() < 0.06
    u = many.uniforms((3,), seed=1, purpose="a", ids=ids)
    assert kstest(u.ravel(), "uniform").pvalue > 0.01

    # A row is a function of its names: not of the batch, and of each of the names.
    some = [7, 2000, 11]
    alone = many.normals((5,), seed=1, purpose="a", ids=(ids[0][some], ids[1][some]))
    np.testing.assert_array_equal(alone, x[some])
    for other in (
        {"seed": 2, "purpose": "a", "ids": ids},
        {"seed": 1, "purpose": "b", "ids": ids},
        {"seed": 1, "purpose": "a", "ids": (ids[0], ids[1] + 1)},
        {"seed": 1, "purpose": "a", "ids": (ids[0] + 2**32, ids[1])},
    ):
        assert not (many.normals((5,), **other) == x).any()
