r"""Localised mixing: in expectation, the Schur product of the sample covariance."""

import numpy as np
import pytest

from hpcinv.models.sphere import correlation, unit_vectors
from hpcinv.training.augmentation import LocalisedMixing
from hpcinv.training.data import Order, RotatedPairs

LAT, LON = np.linspace(-75, 75, 4), np.arange(0, 360, 60.0)
LENGTH = 3000.0


def _archive(number=7, window=2):
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((number + window - 1, 2, 4, 6), dtype=np.float32)
    # Frames resemble the one before, so that there is a lag to keep.
    frames[1:] += 0.8 * frames[:-1]
    return np.stack([frames[i : i + window] for i in range(number)])


def _schur(windows):
    flat = windows.reshape(len(windows), -1).astype(np.float64)
    rows, columns = np.meshgrid(LAT, LON, indexing="ij")
    p = unit_vectors(rows.ravel(), columns.ravel())
    taper = correlation(p @ p.T, LENGTH)
    return flat.T @ flat / len(flat) * np.tile(taper, (4, 4))  # 2 frames x 2 channels


def test_covariance_is_the_localised_sample_covariance():
    windows = _archive()
    wanted = _schur(windows)
    mixing = LocalisedMixing(windows, LAT, LON, length_km=LENGTH, terms=4, bank=12000, seed=1)
    bank = mixing.bank.reshape(len(mixing.bank), -1).astype(np.float64)
    found = bank.T @ bank / len(bank)
    scale = np.sqrt(np.outer(np.diag(wanted), np.diag(wanted)))
    error = (found - wanted) / scale
    # Chosen terms and weights are random: the error of a mean over 12000 draws is below 0.015.
    assert np.sqrt(np.mean(error**2)) < 0.012
    assert np.abs(error).max() < 0.07
    # It is the localisation that is tested: the plain sample covariance is far away.
    flat = windows.reshape(len(windows), -1).astype(np.float64)
    assert np.sqrt(np.mean(((flat.T @ flat / len(flat) - wanted) / scale) ** 2)) > 0.1


def test_draws_keep_the_banks_covariance():
    mixing = LocalisedMixing(_archive(), LAT, LON, length_km=LENGTH, terms=4, bank=60, seed=1)
    bank = mixing.bank.reshape(60, -1).astype(np.float64)
    wanted = bank.T @ bank / 60
    draws = np.stack([mixing.draw(0, i).ravel() for i in range(6000)]).astype(np.float64)
    scale = np.sqrt(np.outer(np.diag(wanted), np.diag(wanted)))
    error = (draws.T @ draws / 6000 - wanted) / scale
    assert np.sqrt(np.mean(error**2)) < 0.02


def test_draws_are_keyed_and_parts_of_the_bank_are_disjoint():
    windows = _archive()
    a = LocalisedMixing(windows, LAT, LON, bank=8, seed=3)
    b = LocalisedMixing(windows, LAT, LON, bank=8, seed=3)
    assert np.array_equal(a.draw(2, 5), b.draw(2, 5))
    assert not np.array_equal(a.draw(2, 5), a.draw(2, 6))
    assert not np.array_equal(a.draw(2, 5), a.draw(3, 5))
    a.bank[:4] = 0
    assert all(not a.draw(0, i, (0.0, 0.5)).any() for i in range(20))
    assert all(a.draw(0, i, (0.5, 1.0)).any() for i in range(20))


def test_masked_points_stay_zero():
    mask = np.ones((4, 6), bool)
    mask[1, 2] = False
    mixing = LocalisedMixing(_archive(), LAT, LON, bank=6, mask=mask)
    assert not mixing.draw(0, 0)[..., 1, 2].any() and mixing.draw(0, 0)[..., 1, 3].all()


class _Fixed:
    def __len__(self):
        return 5

    def sample(self, epoch, number):
        x = np.random.default_rng(number).standard_normal((1, 1, 4)).astype(np.float32)
        return {"x": x, "context": np.zeros((1, 0), np.float32)}


def test_rotated_pairs_keep_second_moments():
    pairs = RotatedPairs(_Fixed(), seed=1)
    x = np.stack([_Fixed().sample(0, i)["x"].ravel() for i in range(5)]).astype(np.float64)
    drawn = np.stack([pairs.sample(e, i)["x"].ravel() for e in range(2000) for i in range(5)])
    np.testing.assert_allclose(drawn.T @ drawn / len(drawn), x.T @ x / 5, atol=0.06)


def test_order_is_an_endless_sequence_of_permutations():
    order = Order(seed=1, size=5)
    seen = [key for step in range(5) for key in order.batch(step, 4)]
    for epoch in range(4):
        assert sorted(n for e, n in seen if e == epoch) == list(range(5))
    assert [n for e, n in seen if e == 0] != [n for e, n in seen if e == 1]
    assert Order(seed=1, size=5).batch(3, 4) == seen[12:16]


def test_shifted_windows_are_the_windows_elsewhere():
    from hpcinv.training.data import Shifted

    shifted = Shifted(_Fixed(), (0, 2), seed=1)
    base = _Fixed().sample(0, 3)["x"]
    w = base.shape[-1]
    seen = set()
    for epoch in range(60):
        x = shifted.sample(epoch, 3)["x"]
        assert np.array_equal(x, shifted.sample(epoch, 3)["x"])
        seen |= {k for k in range(w) if np.array_equal(x, np.roll(base, k, -1))}
    # Every even shift along the last axis, and no other.
    assert seen == set(range(0, w, 2))


@pytest.mark.parametrize(
    ("shift", "periodic", "mask", "said"),
    [
        ([0, 4], True, None, None),
        ([2, 4], "both", None, None),
        ([0, 5], True, None, "divisor"),
        ([2, 4], True, None, r"axes \[1\]"),
        ([4], True, None, "a number for each axis"),
        ([0, 4], True, np.array([[True, False]]), "mask"),
    ],
)
def test_shifts_that_a_grid_does_not_allow_are_named(shift, periodic, mask, said):
    from types import SimpleNamespace

    from hpcinv.errors import BadInput
    from hpcinv.kinds.train import Train

    job = Train.model_validate(
        {"data": "x", "window": 4, "training": {"steps": 1, "batch": 1}, "loss": {"shift": shift},
         "model": {"name": "trajectory_denoiser", "periodic": periodic}}
    )  # fmt: skip
    store = SimpleNamespace(grid=(6, 8), mask=mask, folder="store")
    if said is None:
        job._check_shift(job.loss.shift, store)
        return
    with pytest.raises(BadInput, match=said):
        job._check_shift(job.loss.shift, store)


def test_a_grid_that_ends_before_the_poles_is_named():
    from types import SimpleNamespace

    from hpcinv.errors import BadInput
    from hpcinv.kinds.train import Train

    job = Train.model_validate(
        {"data": "x", "window": 4, "training": {"steps": 1, "batch": 1},
         "model": {"name": "trajectory_denoiser", "periodic": "poles"}}
    )  # fmt: skip

    def store(lat):
        names = {"lat": {"standard_name": "latitude"}, "lon": {"standard_name": "longitude"}}
        return SimpleNamespace(
            coords={"lat": np.asarray(lat), "lon": np.arange(0, 360, 30.0)},
            coord_attrs=names, folder="store",
        )  # fmt: skip

    for lat in (np.linspace(90, -90, 7), np.linspace(-87.5, 87.5, 36)):
        job._check_poles(store(lat))
    for lat in (np.linspace(60, -90, 6), np.linspace(-60, 60, 25)):
        with pytest.raises(BadInput, match=r"latitudes from -[69]0 to 60"):
            job._check_poles(store(lat))
