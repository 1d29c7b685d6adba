r"""What compression costs an emulator: rollouts in data space and in latent spaces, by lead time.

    hpcinv run jobs/kolmogorov-emulation
    python scripts/benchmarks/emulators.py --runs runs

By lead time and emulator: fair CRPS of the members; VRMSE, the rms error of their mean over the
truth's own deviation over the grid; of the last known frame, kept, both (its CRPS is its absolute
error). Then, over all lead times, the members' energy spectrum over that of the withheld flows in
bands of wavenumbers, and what the autoencoder alone makes of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import yaml
from kolmogorov import BANDS, spectrum

from hpcinv.evaluation.crps import crps
from hpcinv.io.analysis import open_analysis
from hpcinv.io.store import TrajectoryStore
from hpcinv.models import load


def by_lead(x: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Fair CRPS and VRMSE of members (M, L, C, *grid) by frame: two arrays (L)."""
    score, error = [], []
    for k, y in enumerate(truth):
        members = x[:, k].reshape(len(x), -1)
        if len(members) > 1:
            score.append(crps(members, y.ravel()).mean())
        else:
            score.append(np.abs(members[0] - y.ravel()).mean())
        wrong = np.square(members.mean(0) - y.ravel()).mean()
        error.append(np.sqrt(wrong / y.var(axis=tuple(range(1, y.ndim))).mean()))
    return np.array(score), np.array(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--withheld", type=int, default=3840, help="first withheld frame")
    args = parser.parse_args()
    folder = args.runs / "kolmogorov-emulation"
    store = TrajectoryStore.open(folder / "simulate" / "store")
    flows = store.read(args.withheld, store.length)
    wanted = spectrum(flows)
    names, found, energy = [], [], {"climatology of the truth": wanted}
    for path in sorted(folder.glob("forecast-*/analysis.nc"), key=_compression):
        job = yaml.safe_load((path.parent / "job.yaml").read_text())
        a, b = job["frames"]
        known = b - a - job["lead"]
        truth = store.read(a, b)
        name = path.parent.name.removeprefix("forecast-")
        with open_analysis(path.parent) as analysis:
            x = analysis.ensemble()
        names.append(name)
        found.append(by_lead(x[:, known:], truth[known:]))
        energy[f"emulator {name}"] = np.mean([spectrum(m[known:]) for m in x], 0)
        if job["decoder"]:
            z = torch.from_numpy(store.standardised(args.withheld, store.length))
            module = load(folder / job["decoder"])
            with torch.no_grad():
                z = module.decode(module.encode(z)).numpy()
            again = store.statistics.restore(z, range(args.withheld, store.length))
            energy[f"autoencoder {name}"] = spectrum(again)
    if not found:
        raise SystemExit(f"no forecast under {folder}: hpcinv run jobs/kolmogorov-emulation")
    kept = np.broadcast_to(truth[known - 1], truth[known:].shape)
    names.append("kept frame")
    found.append(by_lead(kept[None], truth[known:]))
    for what, of in (("fair CRPS", 0), ("VRMSE", 1)):
        print(f"{what:<12}" + "".join(f"{n:>12}" for n in names))
        for k in range(len(found[0][0])):
            print(f"lead {k + 1:<7}" + "".join(f"{f[of][k]:12.3f}" for f in found))
        print()
    print(f"{'energy':<26}" + "".join(f"k {a}-{b}".rjust(9) for a, b in BANDS))
    for name, e in energy.items():
        ratios = (e[a : b + 1].sum() / wanted[a : b + 1].sum() for a, b in BANDS)
        print(f"{name:<26}" + "".join(f"{r:9.3f}" for r in ratios))


def _compression(path: Path) -> int:
    return int(path.parent.name.removeprefix("forecast-").removesuffix("x"))


if __name__ == "__main__":
    main()
