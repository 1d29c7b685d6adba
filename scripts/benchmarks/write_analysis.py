"""How fast ranks write the members of an analysis: together, each on its own, or in parts.

mpirun -n 4 .venv/bin/python scripts/benchmarks/write_analysis.py FOLDER [--mode collective]
"""

import argparse
import time

import numpy as np

from hpcinv.io.analysis import AnalysisWriter
from hpcinv.parallel import connect

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("folder")
parser.add_argument("--mode", choices=["collective", "independent", "parts"], default="collective")
parser.add_argument("--frames", type=int, default=48)
parser.add_argument("--degrees", type=float, default=0.5)
parser.add_argument("--channels", type=int, default=4)
parser.add_argument("--members", type=int, default=2)
a = parser.parse_args()

world = connect("mpi")
if a.mode == "parts":  # as where h5py has no MPI
    AnalysisWriter.shared = property(lambda self: False)
lat = np.arange(-90, 90 + a.degrees / 2, a.degrees)
lon = np.arange(0, 360 - a.degrees / 2, a.degrees)
first, last = world.share(0, a.frames)
rng = np.random.default_rng(world.rank)
x = rng.standard_normal((last - first, a.channels, len(lat), len(lon)), dtype=np.float32)

world.barrier()
start = time.perf_counter()
writer = AnalysisWriter(
    a.folder,
    members=range(a.members),
    world=world,
    queue=0 if a.mode == "independent" else 1 << 40,
    channels=[f"x{c}" for c in range(a.channels)],
    units=["1"] * a.channels,
    coords={"lat": lat, "lon": lon},
    time=np.arange(a.frames),
    time_units="days since 2000-01-01",
)
for m in range(a.members):
    for k in range(0, len(x), 4):
        writer.write(m, first + k, x[k : k + 4])
    if a.mode != "independent":
        writer.flush()
writer.close()
seconds = time.perf_counter() - start
if world.rank == 0:
    size = 4 * a.members * a.frames * a.channels * len(lat) * len(lon) / 2**20
    print(
        f"{a.mode}, {world.size} ranks: {size:.0f} MiB in {seconds:.2f} s, "
        f"{size / seconds:.0f} MiB/s (digests, fsync and renaming included)"
    )
