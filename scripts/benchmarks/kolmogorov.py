r"""Are the sampled flows flows? Spectra and Navier-Stokes residuals of analyses; the forecast.

    hpcinv run jobs/kolmogorov --preset medium
    python scripts/benchmarks/kolmogorov.py --runs runs --start 4224

For each analysis and the truth: the energy spectrum of members over that of the truth, summed
over bands of wavenumbers, the last beyond the solver's cut; the defect of the flow map, rms of
x[t + 1] - step(x[t]) with the simulator's own step, over rms of x[t + 1] - x[t]; and rms
divergence over rms vorticity. Of the simulator's own trajectory the last two are what single
precision leaves. Then the forecast's fair CRPS by lead time, beside the last known frame kept
(its CRPS is its absolute error) and the climatological spread of as many withheld frames of other
times.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from hpcinv.evaluation.crps import crps
from hpcinv.io.analysis import open_analysis
from hpcinv.io.store import TrajectoryStore
from hpcinv.simulators import make

BANDS = ((1, 2), (3, 4), (5, 6), (7, 10), (11, 14), (15, 18), (19, 21))


def bands(n: int) -> list[tuple[int, int]]:
    r"""Those that a grid of n points a side resolves, and what lies beyond its solver's cut."""
    return [(a, b) for a, b in BANDS if b <= n // 3] + [(n // 3 + 1, n // 2)]


def spectrum(x: np.ndarray) -> np.ndarray:
    r"""Energy by wavenumber, a mean over frames: states (n, 2, N, N), an array (N / 2 + 1)."""
    n = x.shape[-1]
    f = np.fft.fft2(x.astype(np.float64)) / n**2
    k = np.abs(np.fft.fftfreq(n, 1 / n))
    shell = np.rint(np.hypot(k[:, None], k)).astype(int).ravel()
    energy = 0.5 * (np.abs(f) ** 2).sum(1).mean(0).ravel()
    return np.bincount(shell, energy, minlength=n)[: n // 2 + 1]


def defects(dynamics, x: np.ndarray) -> tuple[float, float]:
    r"""Defect of the flow map and of incompressibility, of a trajectory (L, 2, N, N)."""
    t = torch.from_numpy(x.astype(np.float64))
    wrong, change = t[1:] - dynamics.advance(t[:-1]), t[1:] - t[:-1]
    rms = lambda a: float(a.square().mean().sqrt())  # noqa: E731
    return rms(wrong) / rms(change), rms(dynamics.divergence(t)) / rms(dynamics.vorticity(t))


def print_forecast(store, path: Path, start: int, known: int = 4) -> None:
    r"""CRPS of the forecast by lead time."""
    with open_analysis(path) as analysis:
        x, n = analysis.ensemble(), analysis.length
    truth = store.read(start, start + n)
    rng = np.random.default_rng(0)
    training = int(store.statistics.count[0])
    climate = np.stack([store.read(t, t + 1)[0] for t in rng.integers(training, size=len(x))])
    print("lead   forecast  kept frame  climatology")
    for k in range(known, n):
        kept = np.abs(truth[known - 1] - truth[k]).mean()
        fair = [crps(e.reshape(len(e), -1), truth[k].ravel()).mean() for e in (x[:, k], climate)]
        print(f"{k - known + 1:4d}  {fair[0]:9.3f}  {kept:10.3f}  {fair[1]:11.3f}")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument(
        "--start", type=int, default=3840, help="frame analysed first: 3840, of medium 4224"
    )
    parser.add_argument("--members", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = args.runs / "kolmogorov"
    store = TrajectoryStore.open(folder / "simulate" / "store")
    dynamics = make(store.attributes["simulator"], store.attributes["options"])
    # Folders that begin with a dot were set aside by --fresh.
    found = sorted(p.parent for p in folder.glob("[!.]*/analysis.nc"))
    found = [p for p in found if p.name != "forecast"]
    truth, rows = None, []
    for path in found:
        with open_analysis(path) as analysis:
            if truth is None:
                x = store.read(args.start, args.start + analysis.length)
                truth = spectrum(x)
                rows.append(("truth", truth, *defects(dynamics, x)))
            members = [analysis.read(m) for m in analysis.members[: args.members]]
        d = np.mean([defects(dynamics, x) for x in members], 0)
        rows.append((path.name, np.mean([spectrum(x) for x in members], 0), *d))
    if (folder / "forecast" / "analysis.nc").exists():
        print_forecast(store, folder / "forecast", args.start)
    of = bands(x.shape[-1])
    print(f"{'energy over the truth':28s}{''.join(f'  k {a}-{b}'.rjust(9) for a, b in of)}"
          "   flow map  divergence")  # fmt: skip
    share = [truth[a : b + 1].sum() / truth.sum() for a, b in of]
    print(f"{'(share of the truth)':28s}{''.join(f'{s:9.5f}' for s in share)}")
    for name, e, flow, div in rows:
        ratio = [e[a : b + 1].sum() / truth[a : b + 1].sum() for a, b in of]
        print(f"{name:28s}{''.join(f'{r:9.3f}' for r in ratio)}  {flow:9.2e}  {div:9.2e}")


if __name__ == "__main__":
    main()
