"""Analyses: written by any number of ranks, read by netCDF tools, never silently incomplete."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import pytest

from hpcinv.errors import BadInput
from hpcinv.io import member_file
from hpcinv.io.analysis import AnalysisWriter, join, open_analysis
from hpcinv.io.atomic import digest_array, digest_frame, roll

# As many frames as latitudes: dimensions must not be told apart by their length.
L, LAT, LON = 7, np.linspace(90, -90, 7), np.arange(0, 360, 30.0)
MEMBERS = (3, 4, 9)


def layout(**changes):
    return {
        "channels": ["UWND", "VWND"],
        "units": ["m/s", "m/s"],
        "standard_names": ["eastward_wind", "northward_wind"],
        "coords": {"lat": LAT, "lon": LON},
        "coord_attrs": {
            "lat": {"units": "degrees_north", "standard_name": "latitude", "axis": "Y"},
            "lon": {"units": "degrees_east", "standard_name": "longitude", "axis": "X"},
        },
        "time": np.array([0.0, 31, 60, 91, 121, 152, 182]),
        "time_units": "days since 1991-01-16 00:00:00",
        "calendar": "gregorian",
    } | changes


def truth(m: int) -> np.ndarray:
    return np.random.default_rng(m).normal(size=(L, 2, 7, 12)).astype("f4")


def write(folder: Path, members=MEMBERS, **changes):
    writer = AnalysisWriter(folder, members=members, **layout(**changes))
    for m in members:
        writer.write(m, 0, truth(m)[:3])
        writer.write(m, 3, truth(m)[3:])
    return writer.close()


RANKS = """
import json, sys
import numpy as np
sys.path.insert(0, {tests!r})
from test_io_analysis import L, MEMBERS, layout, truth
from hpcinv.io import member_file
from hpcinv.io.analysis import AnalysisWriter
from hpcinv.parallel import connect

folder, shares, mode = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
world = connect("mpi")
if mode == "parts":  # as where h5py has no MPI
    AnalysisWriter.shared = property(lambda self: False)
if mode == "large":  # too large to gain from being written together
    member_file.LARGE = 1
queue = 0 if mode == "independent" else 1 << 28
more = {{"compression": 4}} if mode == "compressed" else {{}}
own = None if mode != "groups" else (MEMBERS[:1] if world.rank < 2 else MEMBERS[1:])
kept = layout(**more)
writer = AnalysisWriter(folder, members=MEMBERS, own=own, world=world, queue=queue, **kept)
frames = shares[world.rank]
for m in own or MEMBERS:
    x = truth(m)
    for t in frames:
        writer.write(m, t, x[t:t + 1])
    writer.write(m, 0, x[:0])
digests = writer.close()
assert world.all_gather(digests["digest"]) == [digests["digest"]] * world.size
if world.rank == 0:
    print(json.dumps(digests))
"""


def agree(folder: Path) -> None:
    with open_analysis(folder) as a:
        assert a.members == list(MEMBERS)
        for m in MEMBERS:
            assert np.array_equal(a.read(m), truth(m))
            assert np.array_equal(a.read(m, 2, 5), truth(m)[2:5])
            flat = truth(m)[3, 1].reshape(-1)
            for lo, hi in ((0, flat.size), (1, 2), (flat.size // 2 + 1, flat.size - 1)):
                assert np.array_equal(a.cells(m, 3, 1, lo, hi), flat[lo:hi])


def test_one_process_and_digests(tmp_path):
    said = write(tmp_path)
    agree(tmp_path)
    frames = {m: [digest_frame(x) for x in truth(m)] for m in MEMBERS}
    assert {m: d["frames"] for m, d in said["members"].items()} == frames
    assert said["digest"] == roll(roll(f) for f in frames.values())
    assert sorted(p.name for p in (tmp_path / "members").iterdir()) == ["3.nc", "4.nc", "9.nc"]


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("shares", "mode"),
    [
        ([[0, 1, 2, 3, 4, 5, 6]], "collective"),
        ([[0, 1, 2], [3, 4, 5, 6]], "collective"),
        ([[5], [0, 1, 2, 3, 4, 6], []], "collective"),
        ([[], [6, 5, 0], [1, 2, 3, 4], []], "collective"),
        ([[], [6, 5, 0], [1, 2, 3, 4], []], "independent"),
        ([[], [6, 5, 0], [1, 2, 3, 4], []], "large"),
        ([[0, 1, 2, 3, 4, 5], [6], [0, 1, 2, 3], [4, 5, 6]], "groups"),
        ([[0, 1, 2], [3, 4, 5, 6]], "parts"),
        ([[], [6, 5, 0], [1, 2, 3, 4], []], "parts"),
        ([[0, 4, 2, 6], [], [3, 5, 1]], "compressed"),
    ],
)
def test_ranks_write_what_one_process_writes(tmp_path, mpirun, shares, mode):
    serial = write(tmp_path / "serial")
    script = RANKS.format(tests=str(Path(__file__).parent))
    said = json.loads(mpirun(len(shares), script, tmp_path / "a", json.dumps(shares), mode))
    assert said["digest"] == serial["digest"]
    assert join(tmp_path / "a", MEMBERS, verify="full")["digest"] == serial["digest"]
    agree(tmp_path / "a")
    left = {p.name for p in (tmp_path / "a" / "members").iterdir()}
    apart = mode in ("parts", "compressed") or not h5py.get_config().mpi
    parts = {f"{m}.parts" for m in MEMBERS} if apart and len(shares) > 1 else set()
    assert left == {"3.nc", "4.nc", "9.nc"} | parts
    quiet("cdo", "-s", "sinfon", tmp_path / "a" / "members" / "4.nc")


def quiet(*command: object) -> str:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"no {command[0]}: scripts/setup --cluster installs it")
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_members_satisfy_cdo(tmp_path):
    write(tmp_path)
    file = tmp_path / "members" / "4.nc"
    told = quiet("cdo", "-s", "sinfon", file)
    assert "lonlat" in told and "1991-07-17 00:00:00" in told and "7 steps" in told
    # CDO's own area-weighted mean and its value at one point, against numpy
    value = quiet("cdo", "-s", "outputf,%.9g,1", "-selname,VWND", "-seltimestep,3", file).split()
    np.testing.assert_allclose(np.array(value, "f4").reshape(7, 12), truth(4)[2, 1], rtol=1e-6)
    assert "m/s" in quiet("cdo", "-s", "showattribute,UWND@units", file)
    # Time is the record dimension: what comes later can be appended.
    assert "time = UNLIMITED" in quiet("ncdump", "-h", file)
    with netCDF4.Dataset(file, "r+") as f:
        n = len(f["time"])
        f["time"][n] = f["time"][n - 1] + 1
        f["VWND"][n] = 7.0
    with netCDF4.Dataset(file) as f:
        assert f["VWND"].shape[0] == n + 1 and (f["VWND"][n] == 7).all()


def test_joined_file_satisfies_ncdump_and_xarray(tmp_path):
    import xarray

    write(tmp_path)
    join(tmp_path, MEMBERS, attributes={"title": "Winds"})
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("members", "analysis.nc"):
        shutil.move(tmp_path / name, moved / name)
    header = quiet("ncdump", "-h", moved / "analysis.nc")
    for line in (
        "float UWND(realization, time, lat, lon) ;",
        'UWND:standard_name = "eastward_wind" ;',
        "UWND:_FillValue = 9.96921e+36f ;",
        'time:calendar = "gregorian" ;',
        ':Conventions = "CF-1.11" ;',
        ':title = "Winds" ;',
    ):
        assert line in header
    with h5py.File(moved / "analysis.nc") as f:  # by scale, not by netCDF-C's guess from lengths
        attached = [list(axis.keys()) for axis in f["UWND"].dims]
    assert attached == [["realization"], ["time"], ["lat"], ["lon"]]
    with xarray.open_dataset(moved / "analysis.nc") as ds:
        assert ds.VWND.dims == ("realization", "time", "lat", "lon")
        assert ds.realization.values.tolist() == list(MEMBERS)
        assert str(ds.time.values[2])[:10] == "1991-03-17"
        assert np.array_equal(ds.VWND.values, np.stack([truth(m)[:, 1] for m in MEMBERS]))
        assert np.array_equal(ds.lat.values, LAT) and ds.lat.attrs["axis"] == "Y"
    agree(moved)


def test_members_of_an_array(tmp_path):
    for k, m in enumerate(MEMBERS):
        write(tmp_path / "tasks" / str(k), [m])
    where = {m: f"tasks/{k}/members/{m}.nc" for k, m in enumerate(MEMBERS)}
    join(tmp_path, where)
    agree(tmp_path)


def test_more_members_than_open_files(tmp_path, monkeypatch):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ids = range(120)
    line = layout(channels=["h"], units=["m"], standard_names=None, coords={"x": np.arange(3)})
    line["coord_attrs"] = {}
    used = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 90, hard))
    try:
        writer = AnalysisWriter(tmp_path, members=ids, **line)
        for m in ids:
            writer.write(m, 0, np.full((L, 1, 3), m))
        writer.close()
        join(tmp_path, ids)
        with open_analysis(tmp_path) as a:
            assert (a.ensemble() == np.arange(120).reshape(-1, 1, 1, 1)).all()
            # Going round again, most members are still open.
            real, opened = h5py.File, []

            def counted(path, *how, **more):
                opened.append(path)
                return real(path, *how, **more)

            monkeypatch.setattr(h5py, "File", counted)
            assert (a.ensemble() == np.arange(120).reshape(-1, 1, 1, 1)).all()
            assert len(opened) <= 120 - 63
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_levels_and_one_dimension(tmp_path):
    coords = {"level": np.array([850.0, 500.0]), "lat": LAT, "lon": LON}
    attrs = layout()["coord_attrs"] | {
        "level": {"units": "hPa", "standard_name": "air_pressure", "axis": "Z", "positive": "down"}
    }
    x = np.random.default_rng(0).normal(size=(L, 1, 2, 7, 12)).astype("f4")
    common = layout(channels=["T"], units=["K"], standard_names=["air_temperature"])
    writer = AnalysisWriter(
        tmp_path / "a", members=[0], **(common | {"coords": coords, "coord_attrs": attrs})
    )
    writer.write(0, 0, x)
    writer.close()
    assert np.array_equal(open_analysis(tmp_path / "a").read(0), x)
    told = quiet("cdo", "-s", "sinfon", tmp_path / "a" / "members" / "0.nc")
    assert "pressure" in told and "levels=2" in told

    line = common | {"coords": {"x": np.arange(40)}, "coord_attrs": {}, "units": ["1"]}
    writer = AnalysisWriter(tmp_path / "b", members=[0], **line)
    y = np.random.default_rng(1).normal(size=(L, 1, 40)).astype("f4")
    writer.write(0, 0, y)
    writer.close()
    join(tmp_path / "b", [0])
    assert np.array_equal(open_analysis(tmp_path / "b").read(0), y)
    for name, z in (("a", x), ("b", y)):
        flat = z[1, 0].reshape(-1)
        got = open_analysis(tmp_path / name).cells(0, 1, 0, 1, flat.size - 1)
        assert np.array_equal(got, flat[1:-1])


def test_mask_is_fill_in_the_file_and_nan_for_the_reader(tmp_path):
    import netCDF4

    mask = np.ones((7, 12), bool)
    mask[2:4, 5] = False
    x = truth(0)
    x[..., ~mask] = np.nan
    writer = AnalysisWriter(tmp_path, members=[0], **layout(mask=mask))
    writer.write(0, 0, x)
    writer.close()
    with netCDF4.Dataset(tmp_path / "members" / "0.nc") as f:
        assert np.array_equal(np.ma.getmaskarray(f["UWND"][0]), ~mask)
    a = open_analysis(tmp_path)
    assert np.array_equal(a.mask, mask) and np.array_equal(a.read(0), x, equal_nan=True)
    assert np.array_equal(a.cells(0, 1, 0, 20, 60), x[1, 0].reshape(-1)[20:60], equal_nan=True)


def test_damage_is_named(tmp_path):
    said = write(tmp_path)
    digests = {m: d["digest"] for m, d in said["members"].items()}
    join(tmp_path, MEMBERS, digests=digests)
    file = tmp_path / "members" / "4.nc"
    whole = file.read_bytes()

    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"4\.nc.*truncated"):
        join(tmp_path, MEMBERS)
    with pytest.raises(BadInput, match=r"4\.nc.*truncated"):
        open_analysis(tmp_path).read(4, 0, 1)

    file.unlink()
    with pytest.raises(BadInput, match=r"4\.nc.*missing"):
        join(tmp_path, MEMBERS)
    with pytest.raises(BadInput, match=r"4\.nc.*missing"):
        open_analysis(tmp_path).ensemble(0, 1)

    at = whole.rindex(truth(4)[3, 1].tobytes())
    flipped = bytearray(whole)
    flipped[at + 2] ^= 1
    file.write_bytes(bytes(flipped))
    with pytest.raises(BadInput, match=r"4\.nc.*digest"):
        join(tmp_path, MEMBERS, verify="full")

    file.write_bytes(whole)
    with pytest.raises(BadInput, match=r"4\.nc.*not the member"):
        join(tmp_path, MEMBERS, digests=digests | {4: "0" * 32})
    assert join(tmp_path, MEMBERS, digests=digests, verify="full")["members"] == digests


def test_a_missing_part_is_named(tmp_path, mpirun):
    script = RANKS.format(tests=str(Path(__file__).parent))
    mpirun(2, script, tmp_path, "[[0, 1, 2], [3, 4, 5, 6]]", "parts")
    join(tmp_path, MEMBERS)
    (tmp_path / "members" / "9.parts" / "00001.h5").unlink()
    with pytest.raises(BadInput, match=r"9\.parts/00001\.h5.*missing"):
        join(tmp_path, MEMBERS)
    with pytest.raises(BadInput, match=r"9\.parts/00001\.h5.*missing"):
        open_analysis(tmp_path).read(9)


@pytest.mark.parametrize("mode", ["queued", "at once", "at once, masked", "over its limit"])
def test_the_caller_may_reuse_its_memory(tmp_path, monkeypatch, mode):
    if mode.startswith("at once"):
        monkeypatch.setattr(member_file, "LARGE", 1)
    mask = np.arange(84).reshape(7, 12) % 5 > 0 if "masked" in mode else None
    more = {"queue": 3000} if mode == "over its limit" else {}
    writer = AnalysisWriter(tmp_path, members=MEMBERS, **more, **layout(mask=mask))
    mine = np.empty((1, 2, 7, 12), "f4")
    for m in MEMBERS:
        for t in range(L):
            mine[:] = truth(m)[t]
            writer.write(m, t, mine)
            assert np.array_equal(mine[0], truth(m)[t])  # no fill values in it
        writer.flush()
    writer.close()
    with open_analysis(tmp_path) as a:
        for m in MEMBERS:
            want = truth(m) if mask is None else np.where(mask, truth(m), np.nan)
            assert np.array_equal(a.read(m), want, equal_nan=True)


def test_compression_changes_no_value(tmp_path):
    coarse, size = {m: truth(m).round() for m in MEMBERS}, {}
    for level in (0, 6):
        writer = AnalysisWriter(
            tmp_path / str(level), members=MEMBERS, **layout(compression=level)
        )
        for m, t in itertools.product(MEMBERS, (3, 0, 6, 1, 5, 2, 4)):
            writer.write(m, t, coarse[m][t : t + 1])
        writer.close()
        join(tmp_path / str(level), MEMBERS, verify="full")
        file = tmp_path / str(level) / "members" / "4.nc"
        with h5py.File(file) as f:
            size[level] = f["UWND"].id.get_storage_size()
        with open_analysis(tmp_path / str(level)) as a:
            assert all(np.array_equal(a.read(m), coarse[m]) for m in MEMBERS)
        quiet("cdo", "-s", "sinfon", file)
    assert size[6] < 0.6 * size[0], size


def test_digests_of_older_files_are_known(tmp_path, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr("hpcinv.io.analysis.digest_frame", digest_array)
        old = write(tmp_path)
    assert old["digest"] == roll(roll(digest_array(x) for x in truth(m)) for m in MEMBERS)
    assert join(tmp_path, MEMBERS, verify="full")["digest"] == old["digest"]


def test_nothing_is_committed_when_frames_are_missing(tmp_path):
    write(tmp_path, [3])
    before = (tmp_path / "members" / "3.nc").read_bytes()
    writer = AnalysisWriter(tmp_path, members=[3], **layout())
    writer.write(3, 0, truth(5)[:6])
    with pytest.raises(BadInput, match=r"3\.nc: 1 frames were never written, the first is 6"):
        writer.close()
    assert (tmp_path / "members" / "3.nc").read_bytes() == before


def test_a_fenced_attempt_commits_nothing(tmp_path):
    def fence():
        raise RuntimeError("a newer attempt has begun")

    writer = AnalysisWriter(tmp_path, members=[3], fence=fence, **layout())
    writer.write(3, 0, truth(3))
    with pytest.raises(RuntimeError, match="newer attempt"):
        writer.close()
    assert not (tmp_path / "members" / "3.nc").exists()


def test_bad_blocks(tmp_path):
    writer = AnalysisWriter(tmp_path, members=[3], **layout())
    bad = truth(3)
    bad[4, 1, 2, 3] = np.inf
    with pytest.raises(BadInput, match="VWND is not finite in frame 4"):
        writer.write(3, 0, bad)
    with pytest.raises(BadInput, match="does not fit"):
        writer.write(3, 1, truth(3))
    with pytest.raises(BadInput, match="does not write member 5"):
        writer.write(5, 0, truth(3))
    writer.write(3, 0, truth(3)[:2])
    with pytest.raises(BadInput, match="frame 1 was written twice"):
        writer.write(3, 1, truth(3)[1:2])
    with pytest.raises(BadInput, match="cannot be named 'time'"):
        AnalysisWriter(tmp_path, members=[0], **layout(channels=["time", "V"]))


def test_many_small_blocks_cost_in_proportion(tmp_path):
    # Counted, not timed: a sum over all that waits, for each block, was most of a long analysis.
    def steps(frames):
        kept = layout(time=np.arange(float(frames)), coords={"lat": LAT[:1], "lon": LON[:2]})
        writer = AnalysisWriter(tmp_path / str(frames), members=[0], **kept)
        count = 0

        def tick(*_):
            nonlocal count
            count += 1
            return tick

        block = np.zeros((1, 2, 1, 2), np.float32)
        sys.settrace(tick)
        try:
            for t in range(frames):
                writer.write(0, t, block)
            writer.close()
        finally:
            sys.settrace(None)
        return count

    assert steps(2000) < 3 * steps(1000)
