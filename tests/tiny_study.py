"""A small whole study on a made-up monthly field: import, observe, analyse, evaluate."""

from __future__ import annotations

from pathlib import Path

import netCDF4
import numpy as np

STUDY = {
    "1_import.yaml": """\
kind: import
source: {path: field.nc}
variables:
  t: {units: K}
statistics: {frames: [0, 24], phase: month}
""",
    "2_observe.yaml": """\
kind: observe
data: import
frames: [24, 36]
observing: {network: random_points, points: 5, error: 0.1}
""",
    "3_oi.yaml": """\
kind: assimilate
method: oi
data: import
observations: observe
frames: [24, 36]
training: [0, 24]
members: 4
oi: {covariance: eof, eofs: 5}
""",
    "4_evaluate.yaml": """\
kind: evaluate
truth: import
frames: [24, 36]
analyses: [oi]
replicates: 100
""",
}


def make(folder: Path) -> Path:
    """Writes the job files and the field; the same bytes every time."""
    folder.mkdir()
    for name, text in STUDY.items():
        (folder / name).write_text(text)
    rng = np.random.default_rng(0)
    with netCDF4.Dataset(folder / "field.nc", "w") as f:
        for name, n in (("time", 36), ("lat", 6), ("lon", 8)):
            f.createDimension(name, n)
        t = f.createVariable("time", "f8", ("time",))
        t.units = "days since 2000-01-15"
        t[:] = np.arange(36) * 30.4375
        y = f.createVariable("lat", "f8", ("lat",))
        y.units = "degrees_north"
        y[:] = np.linspace(-75, 75, 6)
        x = f.createVariable("lon", "f8", ("lon",))
        x.units = "degrees_east"
        x[:] = np.arange(8) * 45.0
        v = f.createVariable("t", "f4", ("time", "lat", "lon"))
        v.units = "K"
        v[:] = 280 + rng.standard_normal((36, 6, 8))
    return folder
