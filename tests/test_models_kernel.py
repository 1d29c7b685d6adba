"""Convolutions on grids of zero, one and two axes."""

import pytest
import torch

from hpcinv.models.trajectory_denoiser import TrajectoryDenoiser


def denoiser(grid, **fields):
    torch.manual_seed(0)
    m = TrajectoryDenoiser(2, grid, width=8, depth=3, context=0, position=0, **fields).double()
    for p in m.parameters():  # layers that start at zero would hide the others
        torch.nn.init.normal_(p, std=0.3)
    return m


@pytest.mark.parametrize(
    ("grid", "periodic", "equivariant"),
    [((9,), True, [True]), ((6, 9), True, [False, True]), ((6, 9), "both", [True, True]),
     ((6, 9), False, [False, False])],
)  # fmt: skip
def test_what_is_periodic_commutes_with_shifts(grid, periodic, equivariant):
    m, x = denoiser(grid, periodic=periodic), torch.randn(2, 4, 2, *grid, dtype=torch.float64)
    t = torch.tensor([0.3, 0.6], dtype=torch.float64)
    for axis, same in enumerate(equivariant, start=3):
        moved = m(x.roll(2, axis), t).mean
        assert torch.allclose(moved, m(x, t).mean.roll(2, axis), atol=1e-10) == same


def test_no_neighbour_where_there_is_none():
    # States without a grid: a state alone in a window is mapped by matrices, frame by frame.
    m, x = denoiser(()), torch.randn(3, 1, 2, dtype=torch.float64)
    assert all(block.space.conv.weight.shape[2:] == (1, 1) for block in m.blocks)
    assert all(block.space.conv.weight.shape[2:] == (1, 3) for block in denoiser((5,)).blocks)
    # The same weights in the middle of a 3 x 3 kernel give the same numbers.
    wide = denoiser((1, 1))
    assert torch.equal(wide(x[..., None, None], torch.tensor(0.5)).mean[..., 0, 0],
                       m(x, torch.tensor(0.5)).mean)  # fmt: skip
