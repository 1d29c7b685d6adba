r"""How fast ranks write an analysis, beside raw files by the same ranks in the same run.

    mpirun -n 2 python scripts/benchmarks/write_analysis.py FOLDER

2 GiB are written as one raw file a rank (write and fsync, nothing else), and four times as an
analysis: as it is by default (large blocks at once, each rank for itself), collectively,
independently from the queue of small blocks (one netCDF file a member each time), and as one part
a rank; with digests, the check of what was written, fsync and renaming. Beside the clock's ratio
stands that of processor time, which other work on the machine does not spoil.
Then a trajectory store is read by windows, beside sequential reads of the same file, into one
buffer and into new memory as windows are; from the page cache, or with --cold after the file was
dropped from it. Everything is removed.
"""

import argparse
import os
import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np

from hpcinv.io import analysis as analysis_room
from hpcinv.io import member_file
from hpcinv.io.analysis import AnalysisWriter
from hpcinv.io.atomic import digest_frame
from hpcinv.io.store import TrajectoryStore, aligned
from hpcinv.io.write_store import StoreWriter
from hpcinv.parallel import connect

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("folder", type=Path)
parser.add_argument("--frames", type=int, default=64)
parser.add_argument("--degrees", type=float, default=0.25)
parser.add_argument("--channels", type=int, default=4)
parser.add_argument("--members", type=int, default=2)
parser.add_argument("--window", type=int, default=8)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--cold", action="store_true", help="read from the disk")
a = parser.parse_args()

world = connect("mpi")
lat = np.arange(-90, 90 + a.degrees / 2, a.degrees)
lon = np.arange(0, 360 - a.degrees / 2, a.degrees)
first, last = world.share(0, a.frames)
rng = np.random.default_rng(world.rank)
x = rng.standard_normal((last - first, a.channels, len(lat), len(lon)), dtype=np.float32)
size = 4 * a.members * a.frames * a.channels * len(lat) * len(lon) / 2**20
layout = {
    "channels": [f"x{c}" for c in range(a.channels)], "units": ["1"] * a.channels,
    "coords": {"lat": lat, "lon": lon}, "time": np.arange(a.frames),
    "time_units": "days since 2000-01-01",
}  # fmt: skip


def raw() -> None:
    with open(a.folder / f"{world.rank}.raw", "wb", buffering=0) as f:
        for _ in range(a.members):
            for k in range(0, len(x), 4):
                f.write(x[k : k + 4])
        os.fsync(f.fileno())


def analysis(mode: str) -> None:
    shared = AnalysisWriter.shared
    if mode == "parts":  # as where h5py has no MPI
        AnalysisWriter.shared = property(lambda self: False)
    large = member_file.LARGE
    if mode in ("collective", "independent"):  # as if every block were small
        member_file.LARGE = 1 << 60
    queue = {"independent": 0, "collective": 1 << 40}.get(mode, analysis_room.QUEUE)
    writer = AnalysisWriter(
        a.folder / mode, members=range(a.members), world=world, queue=queue, **layout
    )
    for m in range(a.members):
        for k in range(0, len(x), 4):
            writer.write(m, first + k, x[k : k + 4])
            if mode == "collective":
                writer.flush()
    writer.close()
    AnalysisWriter.shared, member_file.LARGE = shared, large


def touch() -> None:
    r"""Twice the memory that a run needs, touched and freed: a virtual machine gives free memory
    back, and getting it again takes longer than writing, for whichever run comes across it."""
    np.ones(2 * int(size * 2**20) // 8 // world.size)


def timed(write) -> tuple[float, float]:
    r"""Seconds, and processor seconds of all ranks."""
    if world.rank == 0:
        shutil.rmtree(a.folder, ignore_errors=True)
        a.folder.mkdir(parents=True)
        os.sync()
    world.barrier("folder")
    touch()
    world.barrier("start")
    start, busy = time.perf_counter(), time.process_time()
    write()
    busy = time.process_time() - busy  # without the wait for the slowest
    world.barrier("end")
    return time.perf_counter() - start, world.all_reduce(busy)


def digests() -> None:
    for _ in range(a.members):
        for frame in x:
            digest_frame(frame)


def reading() -> None:
    r"""One rank: a store's windows, each frame once, against the bytes of its part."""

    shutil.rmtree(a.folder, ignore_errors=True)
    n = len(x) * a.members
    writer = StoreWriter(a.folder, **layout | {"time": np.arange(n)})
    for k in range(a.members):
        writer.write(k * len(x), x)
    writer.close()
    store = TrajectoryStore.open(a.folder)
    parts = [a.folder / p["file"] for p in store.index["parts"]]

    def fresh() -> None:
        for path in parts if a.cold else ():
            with open(path, "rb") as f:
                os.fdatasync(f.fileno())
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    size = store.read(0, 1).nbytes * a.window

    def bare(new: bool) -> int:
        n, buffer = 0, aligned((size // 4,))
        for path in parts:
            with open(path, "rb", buffering=0) as f:
                while k := f.readinto(buffer):
                    n += k
                    buffer = aligned((size // 4,)) if new else buffer
        return n

    def windows() -> int:
        n = 0
        for k in range(0, store.length, a.window):
            n += store.read(k, min(k + a.window, store.length)).nbytes
        return n

    best = {}
    for _ in range(3):
        for name, read in (
            ("raw into one buffer", lambda: bare(False)),
            ("raw", lambda: bare(True)),
            ("windows", windows),
        ):
            fresh()
            touch()
            start = time.perf_counter()
            n = read()
            rate = n / 2**20 / (time.perf_counter() - start)
            best[name] = max(best.get(name, 0), rate)
    print(f"read, {n / 2**20:.0f} MiB, {'cold' if a.cold else 'cached'}: " + ", ".join(
        f"{k} {v:.0f} MiB/s" for k, v in best.items()
    ) + f", {best['windows'] / best['raw']:.2f} of raw")  # fmt: skip


modes = {m: partial(analysis, m) for m in ("default", "collective", "independent", "parts")}
tried = {"raw files with fsync": raw, "digests alone": digests, **modes}
runs: dict[str, list[tuple[float, float]]] = {name: [] for name in tried}
for _ in range(a.rounds):  # in turn: the first to touch memory or disk pays for the others
    for name, write in tried.items():
        runs[name].append(timed(write))
if world.rank == 0:
    base, work = zip(*runs["raw files with fsync"], strict=True)
    for name, of_name in runs.items():
        took, busy = zip(*of_name, strict=True)
        ratios = sorted(b / t for b, t in zip(base, took, strict=True))
        print(
            f"{name}, {world.size} ranks: {size:.0f} MiB in {min(took):.2f} to {max(took):.2f} s, "
            f"{size / min(took):.0f} MiB/s at best; of raw files {min(base) / min(took):.2f} at "
            f"best, {ratios[len(ratios) // 2]:.2f} in the middle; processor {min(busy):.2f} s, "
            f"{min(work) / min(busy):.2f}",
            flush=True,
        )
    reading()
    shutil.rmtree(a.folder, ignore_errors=True)
