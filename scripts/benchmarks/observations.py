r"""The pace of observations: a million rows from a file to operators; one large frame seen.

    python scripts/benchmarks/observations.py rows [--count 1000000]
    python scripts/benchmarks/observations.py operator [--count 100000] [--channels 78]

`rows` writes a CSV file of point reports of temperature and wind, then reads it, maps it to the
frames of a trajectory, checks it (bounds, duplicates, background) and builds the operators of
bilinear interpolation. `operator` applies bilinear interpolation to one global frame of 721 × 1440
points, and its adjoint by autograd, and compares <A x, y> with <x, A^T y>. Seeds are fixed.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from hpcinv.io.statistics import Statistics
from hpcinv.observations.config import Forward, Quality
from hpcinv.observations.operators import Operator
from hpcinv.observations.quality import control
from hpcinv.observations.read import read_points
from hpcinv.observations.table import ObservationTable


def trajectory(channels: int, lat: np.ndarray, lon: np.ndarray, frames: int) -> SimpleNamespace:
    grid = (len(lat), len(lon))
    names = ["t", "u", *(f"c{k}" for k in range(2, channels))]
    return SimpleNamespace(
        channels=names, units=["K", "m s-1", *["1"] * (channels - 2)], grid=grid,
        coords={"lat": lat, "lon": lon},
        coord_attrs={"lat": {"standard_name": "latitude"}, "lon": {"standard_name": "longitude"}},
        time=np.arange(frames) * 6.0, time_units="hours since 1995-03-18", calendar="standard",
        mask=None,
        statistics=Statistics(
            np.where(np.arange(channels) == 0, 283.0, 0.0).reshape(1, -1, 1, 1),
            np.full((1, channels, 1, 1), 10.0), np.full(1, 9), np.zeros(frames, int), grid,
        ),
    )  # fmt: skip


def peak() -> float:
    r"""Most memory this process ever held, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def rows(count: int) -> None:
    import pandas as pd

    rng = np.random.default_rng(0)
    s = trajectory(2, np.arange(20, 61, 1.0), np.arange(-130, -59, 1.0), 4)
    when = np.datetime64("1995-03-18") + (3600 * rng.uniform(-2, 20, count)).astype("m8[s]")
    variable = rng.choice(["t", "u"], count)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reports.csv"
        pd.DataFrame({
            "variable": variable, "value": rng.normal(0, 5, count).round(2),
            "units": np.where(variable == "t", "degC", "m s-1"), "error": 1.0, "time": when,
            "lat": rng.uniform(15, 65, count).round(3),
            "lon": rng.uniform(-135, -55, count).round(3),
            "station": rng.integers(0, 9999, count).astype(str),
        }).to_csv(path, index=False)  # fmt: skip
        began, cpu = time.perf_counter(), time.process_time()
        table, notes = read_points(path, s, start=0, stop=4, forward=Forward(space="bilinear"))
        read = time.perf_counter()
        table = control(table, s, Quality(), start=0)
        checked = time.perf_counter()
        used = table.used
        operator = Operator(used, s)
        pieces = [operator.piece(operator.rows([f])) for f in range(4)]
        done = time.perf_counter()
    assert sum(len(p.rows) for p in pieces) == len(used)
    print(f"{count} rows: read and mapped {read - began:.1f} s, checked {checked - read:.1f} s, "
          f"operators {done - checked:.1f} s; all {done - began:.1f} s "
          f"({time.process_time() - cpu:.1f} s of CPU)")  # fmt: skip
    print(f"peak memory {peak():.2f} GiB; {len(used)} used, the others: {dict(notes)}")


def operator(count: int, channels: int) -> None:
    import torch

    rng = np.random.default_rng(0)
    s = trajectory(2, np.linspace(90, -90, 721), np.arange(0, 360, 0.25), 1)
    s.channels = [f"c{k}" for k in range(channels)]
    table = ObservationTable(
        frame=np.zeros(count), channel=rng.integers(0, channels, count), point=np.zeros(count),
        value=np.zeros(count), error=np.ones(count),
        lat=np.rad2deg(np.arcsin(rng.uniform(-1, 1, count))), lon=rng.uniform(0, 360, count),
        time=np.zeros(count), station=np.full(count, ""), channels=s.channels,
        units=["1"] * channels, forward=Forward(space="bilinear"),
    )  # fmt: skip
    began = time.perf_counter()
    piece = Operator(table, s).piece(np.arange(count))
    print(f"{count} rows on 721 × 1440 × {channels}: built in {time.perf_counter() - began:.2f} s")
    grid = 721 * 1440
    index = torch.from_numpy(piece.channel * grid + piece.point)
    x = torch.randn(channels * grid, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    y = torch.randn(count, generator=torch.Generator().manual_seed(1))
    took = []
    for _ in range(5):
        began, cpu = time.perf_counter(), time.process_time()
        seen = piece(x.index_select(0, index))
        applied = time.perf_counter()
        (back,) = torch.autograd.grad(seen, x, y)
        done = time.perf_counter()
        took.append((done - began, applied - began, done - applied, time.process_time() - cpu))
    both, forth, again, cpu = min(took)
    with torch.no_grad():
        left, right = (seen.double() * y).sum(), (back.double() * x).sum()
    print(f"both {both:.3f} s: applied {forth:.3f} s, adjoint {again:.3f} s "
          f"({cpu:.3f} s of CPU), the best of 5")  # fmt: skip
    print(f"<A x, y> = {left:.6f}, <x, A^T y> = {right:.6f}; peak {peak():.2f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("rows", "operator"))
    parser.add_argument("--count", type=int)
    parser.add_argument("--channels", type=int, default=78)
    args = parser.parse_args()
    if args.part == "rows":
        rows(args.count or 1_000_000)
    else:
        operator(args.count or 100_000, args.channels)


if __name__ == "__main__":
    main()
