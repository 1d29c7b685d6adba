"""How far a denoiser sees over frames, and what frames without a context cost."""

import pytest
import torch

from hpcinv.models.trajectory_denoiser import TrajectoryDenoiser


def denoiser(**fields):
    torch.manual_seed(0)
    m = TrajectoryDenoiser(2, (), width=8, position=0, **{"context": 0, **fields}).double()
    for p in m.parameters():  # layers that start at zero would hide the others
        torch.nn.init.normal_(p, std=0.3)
    return m


@pytest.mark.parametrize(
    ("reach", "depth", "seen"), [((1,), 3, {0, 1, 2, 3}), ((1, 2, 4), 4, set(range(9))),
     ((4,), 2, {0, 4, 8}), ((20,), 2, {0})],
)  # fmt: skip
def test_a_frame_sees_as_far_as_the_reaches_add_up(reach, depth, seen):
    m = denoiser(reach=reach, depth=depth)
    x = torch.randn(1, 19, 2, dtype=torch.float64, requires_grad=True)
    m(x, torch.tensor(0.5)).mean[:, 9].sum().backward()
    felt = x.grad[0].abs().amax(-1) > 0
    assert {abs(i - 9) for i in felt.nonzero().flatten().tolist()} == seen
    assert felt.equal(felt.flip(0))


def test_frames_without_a_context_have_the_embedding_that_each_would_have():
    one, each = denoiser(depth=3), denoiser(depth=3, context=1)
    state = each.state_dict()
    enter = state["embedding.layers.0.weight"]
    state["embedding.layers.0.weight"] = enter[:, :-1]  # as if the context had no weight
    one.load_state_dict(state)
    x = torch.randn(2, 5, 2, dtype=torch.float64)
    t = torch.tensor([0.3, 0.6], dtype=torch.float64)
    torch.testing.assert_close(one(x, t).mean, each(x, t, context=torch.zeros(2, 5, 1)).mean)
