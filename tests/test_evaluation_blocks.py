r"""Ensembles too large to be held: the same sums in any blocks and tiles, in bounded memory."""

from types import SimpleNamespace

import numpy as np
import pytest
from test_evaluation_scores import ALL, GRID, TWO, M, Truth, case, sums_of

from hpcinv.errors import BadInput
from hpcinv.evaluation.scores import scorecard
from hpcinv.evaluation.spectra import spectrum
from hpcinv.evaluation.sums import SUMMED, evaluate
from hpcinv.parallel import World


@pytest.mark.parametrize("numbers", [1, 7 * M, 1 << 20])
@pytest.mark.parametrize("tile", [2, 512])
def test_blocks_of_cells_and_tiles_of_members_give_the_same_sums(monkeypatch, numbers, tile):
    ensemble, truth = case()
    whole = sums_of(ensemble, truth, **ALL)
    monkeypatch.setattr("hpcinv.evaluation.energy.TILE", tile)
    monkeypatch.setattr("hpcinv.evaluation.sums.TILE", tile)
    monkeypatch.setattr("hpcinv.evaluation.blocks.BATCH", numbers)
    monkeypatch.setattr("hpcinv.evaluation.blocks.HELD", 0)
    blocks = sums_of(ensemble, truth, **ALL)
    parts = [sums_of(ensemble, truth, world=World(r, 3), **ALL) for r in range(3)]
    merged = parts[1].merge(parts[0]).merge(parts[2])
    for name in SUMMED:
        a = getattr(whole, name)
        assert np.abs(a - getattr(blocks, name)).max() <= 1e-12 * np.abs(a).max(), name
        assert np.abs(a - getattr(merged, name)).max() <= 1e-12 * np.abs(a).max(), name


def test_blocks_leave_the_masked_out_and_name_what_is_not_finite(monkeypatch):
    ensemble, truth = case()
    truth.w = truth.w.copy()
    truth.w[2, 1:5] = truth.w[5] = 0.0
    whole = sums_of(ensemble, truth)
    monkeypatch.setattr("hpcinv.evaluation.blocks.BATCH", 3 * M)
    monkeypatch.setattr("hpcinv.evaluation.blocks.HELD", 0)
    ensemble.x[..., 5, :] = np.nan
    for name in SUMMED:
        a = getattr(whole, name)
        assert np.abs(a - getattr(sums_of(ensemble, truth), name)).sum() <= 1e-9, name
    ensemble.x[3, 2, 1, 4, 4] = np.nan
    with pytest.raises(BadInput, match="member 3, frame 2: 'v' is not finite"):
        sums_of(ensemble, truth)


class Made(SimpleNamespace):
    r"""Members that are stretches of one series: nothing of them is kept."""

    series = np.random.default_rng(0).standard_normal(1 << 16, dtype=np.float32)

    def cells(self, member, frame, channel, start, stop):
        a = (7919 * (member + 8) + 104729 * frame + 31 * channel) % 60000
        return self.series[a + start : a + stop]

    def read(self, member, start, stop):
        n = int(np.prod(self.grid))
        return np.array([self.cells(member, t, 0, 0, n) for t in range(start, stop)]).reshape(
            stop - start, 1, *self.grid
        )


def test_memory_does_not_grow_with_the_members(monkeypatch):
    import tracemalloc

    side = 32
    for name, numbers in (("blocks.BATCH", 1 << 14), ("blocks.HELD", 1 << 14), ("sums.TILE", 128),
                          ("energy.TILE", 128), ("energy.AGAIN", 1 << 14)):  # fmt: skip
        monkeypatch.setattr(f"hpcinv.evaluation.{name}", numbers)
    grid = SimpleNamespace(
        **vars(GRID) | {"grid": (side, side), "coords": {
            "lat": np.linspace(-87, 87, side), "lon": np.arange(side) * 360 / side}}
    )  # fmt: skip
    how = {"spectrum": spectrum(grid), "threshold": lambda t: np.zeros((1, side, side))}
    one = {"channels": ["u"], "units": ["m s-1"]}

    def peak(members, length):
        truth = Truth(
            y=Made(grid=grid.grid).read(-7, 0, length), w=np.ones(grid.grid), channels=["u"]
        )
        tracemalloc.start()
        sums = evaluate(Made(grid=grid.grid), truth, members=range(members), length=length, **how)
        scorecard({"a": sums}, **one, replicates=100, spectrum=how["spectrum"])
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(16, 2)  # what is imported is counted once
    few, many = peak(16, 1), peak(1024, 1)
    # 1,024 members of a frame are 4 MB. What may grow: tiles of 128 × 128, sums of 128 bins.
    assert many < 1.25 * few + 8 * 128 * 128 * 6, (few, many)
    assert peak(16, 12) < 1.25 * few, few


def test_many_members_share_bins_and_flat_stays_flat(monkeypatch):
    monkeypatch.setattr("hpcinv.evaluation.ranks.BINS", 8)
    # 11 ranks in 8 bins: a reliable ensemble is flat, and covered as often as it says
    made = [(case(seed=s, members=10, length=40), {}) for s in range(2)]
    narrow = case(members=10, length=40)
    narrow[0].x[:] = narrow[0].x.mean(0) + 0.5 * (narrow[0].x - narrow[0].x.mean(0))
    cards = [
        scorecard({"a": sums_of(*c, **{"threshold": ALL["threshold"]})}, **TWO, replicates=2)
        ["methods"]["a"]["pooled"] for c in (made[0][0], made[1][0], narrow)
    ]  # fmt: skip
    for card in cards[:2]:
        h = np.array(card["rank_histogram"])
        assert len(h) == 8 and np.abs(h - 1 / 8).max() < 0.012
        assert max(abs(c["found"] - c["nominal"]) for c in card["coverage"]) < 0.02
    assert cards[2]["rank_distance"]["value"] > 0.15
    monkeypatch.setattr("hpcinv.evaluation.ranks.BINS", 128)
    whole = scorecard(
        {"a": sums_of(*made[0][0], threshold=ALL["threshold"])}, **TWO, replicates=2
    )["methods"]["a"]["pooled"]  # fmt: skip
    assert len(whole["rank_histogram"]) == 11
    for name in ("brier", "fair_brier"):  # probabilities rounded to sevenths
        rounded = cards[0]["reliability"][name]
        assert rounded == pytest.approx(whole["reliability"][name], abs=4e-3)
