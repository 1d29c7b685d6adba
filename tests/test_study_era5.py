r"""The study of ERA5: planned for public centres at full size, run whole at the smallest."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
CENTRES = ("jean-zay", "leonardo", "lumi", "perlmutter", "juwels-booster")


def hpcinv(*args, **kw):
    return subprocess.run(
        [sys.executable, "-m", "hpcinv", *map(str, args)], capture_output=True, text=True, **kw
    )


@pytest.mark.parametrize("centre", CENTRES)
def test_every_script_of_the_full_study_is_rendered(tmp_path, centre):
    done = hpcinv(
        "plan", ROOT / "jobs/era5", "--preset", "full", "--cluster", centre,
        "--sbatch", tmp_path / "out", "--runs", tmp_path / "runs", env=None,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    assert "507 M" in done.stdout and "982 M" in done.stdout  # Appa's two models
    scripts = sorted((tmp_path / "out").glob("*.sbatch"))
    # Ten jobs, of which four are arrays with a join step each; and the failure map: six ways to
    # observe, two arrays of each, what is compared with them, their scores, the map.
    assert len(scripts) == 14 + 6 + 2 * 2 * 6 + 3
    for script in scripts:
        assert subprocess.run(["bash", "-n", script]).returncode == 0
        assert "--launcher none" in script.read_text()
    array = next(s for s in scripts if s.name.endswith("reanalysis.array.sbatch")).read_text()
    assert "--array=0-63%8" in array and "--nodes=7" in array


@pytest.mark.slow
def test_the_chain_runs_whole(tmp_path):
    done = hpcinv("run", ROOT / "jobs/era5", "--preset", "smoke", "--runs", tmp_path, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    import xarray as xr

    study = tmp_path / "era5"
    with xr.open_dataset(study / "reanalysis" / "analysis.nc") as a:
        assert a["temperature_500"].attrs["units"] == "K"
        t = a["temperature_500"].values
    assert t.shape == (2, 16, 32, 64) and 180 < t.min() and t.max() < 320
    card = json.loads((study / "evaluate" / "scores.json").read_text())
    assert set(card["methods"]) == {"reanalysis", "forecast", "climatology"}
    assert len(card["channels"]) == 71 and np.isfinite(
        card["methods"]["reanalysis"]["pooled"]["crps"]["value"]
    )
    table = json.loads((study / "map" / "map.json").read_text())
    assert [c["at"] for c in table["cells"]] == [[e, w] for w in (8, 4) for e in (1, 4)]
    page = (study / "report" / "report.html").read_text()
    assert "Can I trust this?" in page and len(page) < 6e6


def test_a_zarr_store_in_the_layout_of_weatherbench_is_read_as_the_sample(tmp_path):
    """Chunked by time, as on the web: the store's numbers, channel by channel."""
    pytest.importorskip("zarr")
    from hpcinv.io.store import TrajectoryStore
    from hpcinv.simulators.planetary_waves import LEVELS, UPPER, planetary_waves

    made = planetary_waves(96, (32, 64))
    made.to_zarr(
        tmp_path / "era5.zarr", zarr_format=2, consolidated=True,
        encoding={v: {"chunks": (1, *made[v].shape[1:])} for v in made.data_vars},
    )  # fmt: skip
    source = f"source={{path: {tmp_path / 'era5.zarr'}, sample: null}}"
    done = hpcinv(
        "run", ROOT / "jobs/era5/1_import.yaml", "--preset", "smoke", "--runs", tmp_path / "runs",
        "--ranks", 1, source,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    store = TrajectoryStore.open(tmp_path / "runs" / "era5" / "import" / "store")
    assert len(store.channels) == 71 and store.length == 96
    x = store.read(90, 92)
    for name in made.data_vars:
        field = made[name].transpose("time", ..., "latitude", "longitude").values[90:92]
        if name in UPPER:
            for k, p in enumerate(LEVELS):
                got = x[:, store.channels.index(f"{name}_{p}")]
                np.testing.assert_array_equal(got, field[:, k].astype("f4"))
        else:
            np.testing.assert_array_equal(x[:, store.channels.index(name)], field.astype("f4"))
