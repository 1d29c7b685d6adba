#!/usr/bin/env python
"""Our emission spectra against nemesispy's own forward model: agreement, and seconds of each.

    .venv/bin/python scripts/benchmarks/spectrum.py [--spectra 200] [--seed 0] [--peer PYTHON]

nemesispy 0.0.10 needs numpy 1.26: without --peer, an environment of its own is made in the user's
cache. Both models get the same pressures, temperatures and mixing ratios, drawn from the prior of
the study without its cloud, and run on one thread; seconds are of CPU, so that other work on the
machine does not count. nemesispy sees the atmosphere on 20 levels as in its own examples (timed),
and on 401 (which it cuts into the same 20 layers: its interpolation between coarse levels is
linear in height, not exponential, and costs it 1-3%).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

BOTTOM, TOP, LAYERS = 2e6, 1e2, 20


def peer(task):
    """Runs in nemesispy's environment, with numpy 1.26 and without hpcinv."""
    import numpy as np
    from nemesispy.common.constants import G
    from nemesispy.data.helper import cia_file_path, lowres_file_paths
    from nemesispy.radtran.forward_model import ForwardModel

    given = np.load(task)
    ids = np.array([1, 2, 5, 6, 40, 39])
    out = {}
    for name in ("coarse", "fine"):
        p, t = given[f"p_{name}"], given[f"t_{name}"]
        spectra, cpu, wall = [], 0.0, 0.0
        for i in range(-1, len(t)):
            g, r, x = (given[k][i] for k in ("gravity", "radius", "mixing"))
            model = ForwardModel()
            model.set_planet_model(M_plt=g * r**2 / G, R_plt=r, gas_id_list=ids,
                                   iso_id_list=np.zeros(6), NLAYER=LAYERS)  # fmt: skip
            model.set_opacity_data(lowres_file_paths, cia_file_path)
            vmr = np.zeros((len(p), 6))
            vmr[:, :4] = x
            vmr[:, 4:] = (1 - x.sum()) * np.array([0.15, 0.85])
            a, b = time.process_time(), time.perf_counter()
            s = model.calc_disc_spectrum_uniform(
                3, p, t[i], vmr, solspec=np.ones(len(model.wave_grid))
            )
            if i >= 0:  # the first call, of the last spectrum, compiles
                cpu, wall = cpu + time.process_time() - a, wall + time.perf_counter() - b
                spectra.append(s / (4 * np.pi * (r * 100) ** 2) * 1e4)
        out[name] = {
            "cpu": cpu / len(t),
            "wall": wall / len(t),
            "spectra": np.array(spectra).tolist(),
        }
    Path(task).with_suffix(".json").write_text(json.dumps(out))


def environment():
    """Python of an environment with nemesispy, made at need."""
    from hpcinv.io.sources import cache

    place = cache() / "nemesispy-environment"
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "numpy==1.26.4", "nemesispy==0.0.10"],
            check=True,
        )
    return python


def main():
    import numpy as np
    import torch

    from hpcinv.simulators.base import Key
    from hpcinv.simulators.measured_spectrum import JUPITER
    from hpcinv.simulators.spectrum import Spectrum

    parse = argparse.ArgumentParser()
    parse.add_argument("--spectra", type=int, default=200)
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--peer", help="a python that has nemesispy")
    args = parse.parse_args()
    torch.set_num_threads(1)
    ours = Spectrum(pressures=(TOP, BOTTOM), layers=LAYERS, disc="lobatto")  # nemesispy's angles
    theta = ours.prior.sample(Key(args.seed, range(4 * args.spectra)))
    names = ours.prior.names
    theta[:, names.index("cloud_opacity")] = 0
    # An atmosphere that escapes has no spectrum; nemesispy would give one.
    theta = theta[ours.flux(theta).isfinite().all(-1)][: args.spectra]
    levels = {"coarse": np.geomspace(BOTTOM, TOP, LAYERS), "fine": np.geomspace(BOTTOM, TOP, 401)}
    given = {f"p_{k}": p for k, p in levels.items()}
    for k, p in levels.items():
        given[f"t_{k}"] = ours.temperature(theta.double(), torch.from_numpy(p)).numpy()
    given["gravity"] = theta[:, names.index("gravity")].double().numpy()
    given["radius"] = theta[:, names.index("radius")].double().numpy() * JUPITER
    given["mixing"] = theta[:, :4].double().numpy()
    with tempfile.TemporaryDirectory() as scratch:
        task = Path(scratch) / "task.npz"
        np.savez(task, **given)
        subprocess.run(
            [args.peer or environment(), __file__, "--as-peer", str(task)], check=True,
            env=os.environ | {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
                              "PYTHONWARNINGS": "ignore"}, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        theirs = json.loads(task.with_suffix(".json").read_text())

    batch = 64
    cpu, wall, flux = time.process_time(), time.perf_counter(), []
    with torch.no_grad():
        for part in theta.split(batch):
            flux.append(ours.flux(part))
    cpu, wall = ((b - a) / len(theta) for a, b in
                 ((cpu, time.process_time()), (wall, time.perf_counter())))  # fmt: skip
    area = (
        theta[:, names.index("radius")] * JUPITER / (ours.distance * 3.0856775814913673e16)
    ) ** 2
    emitted = (torch.cat(flux) / area[:, None]).double().numpy()
    print(
        f"{len(theta)} spectra of {emitted.shape[1]} channels, seed {args.seed}, one thread each"
    )
    for name, told in theirs.items():
        off = np.abs(emitted / np.array(told["spectra"]) - 1)
        print(
            f"against nemesispy on {len(levels[name])} levels: within 1% at "
            f"{(off < 0.01).mean():.1%} of channels, median {np.median(off):.2%}, "
            f"95th percentile {np.quantile(off, 0.95):.2%}, worst {off.max():.1%}"
        )
        print(
            f"  nemesispy {told['cpu'] * 1e3:.1f} ms CPU a spectrum "
            f"({told['wall'] * 1e3:.0f} ms wall), "
            f"here {cpu * 1e3:.2f} ms ({wall * 1e3:.2f} ms wall) in batches of {batch}: "
            f"{told['cpu'] / cpu:.0f} times faster"
        )


if __name__ == "__main__":
    if "--as-peer" in sys.argv:
        peer(sys.argv[-1])
    else:
        main()
