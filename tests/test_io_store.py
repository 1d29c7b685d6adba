"""The trajectory store: what is written is read, and nothing damaged is read silently."""

import h5py
import numpy as np
import pytest

from hpcinv.errors import BadInput
from hpcinv.io.atomic import digest_frame
from hpcinv.io.statistics import Statistics
from hpcinv.io.store import TrajectoryStore
from hpcinv.io.write_store import StoreWriter

LAT, LON = np.linspace(-90, 90, 7), np.arange(0, 360, 45.0)


def make(folder, x, **kw):
    writer = StoreWriter(
        folder,
        channels=["u", "v"],
        units=["m s-1", "m s-1"],
        coords={"lat": LAT, "lon": LON},
        coord_attrs={"lat": {"standard_name": "latitude"}, "lon": {"standard_name": "longitude"}},
        time=np.arange(len(x)) * 30.5,
        time_units="days since 2000-01-01",
        **kw,
    )
    return writer


@pytest.fixture
def fields():
    return np.random.default_rng(0).standard_normal((10, 2, 7, 8)).astype("f4")


def test_reads_what_was_written(tmp_path, fields):
    writer = make(tmp_path / "s", fields, segments=[(0, 4), (4, 10)])
    writer.write(6, fields[6:])
    writer.write(0, fields[:6])
    root = writer.close()
    s = TrajectoryStore.open(tmp_path / "s")
    np.testing.assert_array_equal(s.read(3, 9), fields[3:9])
    np.testing.assert_array_equal(s.read(3, 9, [1]), fields[3:9, 1:])
    assert s.windows(3).tolist() == [0, 1, 4, 5, 6, 7]
    assert s.windows(3, within=(1, 8)).tolist() == [1, 4, 5]
    assert s.digest == root
    s.verify()


def test_weights_are_areas(tmp_path, fields):
    writer = make(tmp_path / "s", fields)
    writer.write(0, fields)
    writer.close()
    w = TrajectoryStore.open(tmp_path / "s").weights()
    # Cell bounds at the poles, +-75, +-45, +-15 degrees.
    bounds = np.sin(np.deg2rad([-90, -75, -45, -15, 15, 45, 75, 90]))
    np.testing.assert_allclose(w[:, 0], np.diff(bounds) * 7 / 2, rtol=1e-12)


def test_a_frame_never_written_is_an_error(tmp_path, fields):
    writer = make(tmp_path / "s", fields)
    writer.write(0, fields[:9])
    with pytest.raises(BadInput, match="first is 9"):
        writer.close()
    assert not (tmp_path / "s").exists()


def test_damage_is_named(tmp_path, fields):
    writer = make(tmp_path / "s", fields)
    writer.write(0, fields)
    writer.close()
    part = tmp_path / "s" / "part-00000.h5"
    data = bytearray(part.read_bytes())
    at = data.find(fields[5].tobytes()[:64])
    data[at] ^= 1
    part.write_bytes(data)
    with pytest.raises(BadInput, match="frame 5 differs"):
        TrajectoryStore.open(tmp_path / "s").verify()
    part.write_bytes(data[:1000])
    with pytest.raises(BadInput, match=r"has 1000 bytes .*frames 0 to 9"):
        TrajectoryStore.open(tmp_path / "s")
    part.unlink()
    with pytest.raises(BadInput, match="is missing"):
        TrajectoryStore.open(tmp_path / "s")


def test_what_is_not_finite_is_named_where_the_grid_is_valid(tmp_path, fields):
    mask = np.ones((7, 8), bool)
    mask[0, 0] = False
    fields[:, 1, 0, 0] = np.nan  # land
    for name, frames in (("whole", []), ("torn", [3, 7])):
        fields[frames, 1, 2, 2:5] = np.inf
        writer = make(tmp_path / name, fields, mask=mask)
        writer.write(0, fields)
        writer.close()
    TrajectoryStore.open(tmp_path / "whole").verify()
    torn = TrajectoryStore.open(tmp_path / "torn")
    torn.verify(4, 7)
    with pytest.raises(BadInput, match=r"'v' has 3 values .* not finite in frame 7"):
        torn.verify(4)


def test_statistics_go_with_the_store(tmp_path, fields):
    mean = np.stack([np.full((2, 7, 8), 1.0), np.full((2, 7, 8), -3.0)]).astype("f4")
    std = 2 * np.ones_like(mean)
    stats = Statistics(mean, std, np.array([5, 5]), np.arange(10) % 2)
    writer = make(tmp_path / "s", fields)
    writer.statistics = stats
    writer.write(0, fields)
    writer.close()
    s = TrajectoryStore.open(tmp_path / "s")
    z = s.standardised(2, 5)
    np.testing.assert_allclose(z[1], (fields[3] + 3) / 2, rtol=1e-6)
    np.testing.assert_allclose(s.statistics.restore(z, [2, 3, 4]), fields[2:5], atol=1e-6)
    assert s.statistics.shrinkage[0] == pytest.approx((4 / 6) ** 0.5)
    # 15 January and 15 July are half a turn apart.
    c = s.context()
    np.testing.assert_allclose(c[0], -c[6], atol=0.06)


def test_windows_across_parts_channels_and_runs_of_chunks_are_the_frames(tmp_path):
    x = np.random.default_rng(0).standard_normal((20, 3, 300, 700)).astype(np.float32)
    for k, (a, b) in enumerate([(0, 9), (9, 20)]):
        with h5py.File(tmp_path / f"part{k}.h5", "w") as f:
            f.create_dataset("x", data=x[a:b], chunks=(2, 1, 150, 700))
    writer = StoreWriter(
        tmp_path / "store", channels=["a", "b", "c"], units=["1"] * 3,
        coords={"y": np.arange(300), "x": np.arange(700)}, time=np.arange(20), time_units="days",
        parts=[("../part0.h5", 0, 9), ("../part1.h5", 9, 20)],
    )  # fmt: skip
    writer.digests = {t: digest_frame(frame) for t, frame in enumerate(x)}
    writer.close()
    store = TrajectoryStore.open(tmp_path / "store")
    for a, b in [(0, 20), (7, 12), (8, 9), (9, 10), (5, 5)]:
        got = store.read(a, b)
        assert np.array_equal(got, x[a:b]) and got.dtype == np.float32
        assert got.ctypes.data % 64 == 0 or a == b
        assert np.array_equal(store.read(a, b, [0, 2]), x[a:b, [0, 2]]) or a == b
        assert np.array_equal(store.read(a, b, slice(1, 3)), x[a:b, 1:3])
    store.verify()
