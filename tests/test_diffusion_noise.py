r"""Keyed noise: names decide the numbers, and nothing else does."""

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
