r"""What compression costs an emulator: rollouts in data space and in latent spaces, by lead time.

    hpcinv run jobs/kolmogorov-emulation
    python scripts/benchmarks/emulators.py --runs runs

By lead time and emulator, a mean over the starts: fair CRPS of the members; VRMSE, the rms error
of their mean over the truth's own deviation over the grid; of the last known frame, kept, both
(its CRPS is its absolute error). Then the members' energy by wavenumber, over that of the truth in
the same frames and over that of all withheld flows; what the autoencoder alone makes of the truth;
and the wavenumbers that an emulator resolves: those up to which its autoencoder leaves half of the
energy or more. Last, the operations that each emulator and its autoencoder were trained with.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import yaml
from kolmogorov import spectrum

from hpcinv.evaluation.crps import crps
from hpcinv.io.analysis import open_analysis
from hpcinv.io.store import TrajectoryStore
from hpcinv.models import load
from hpcinv.runs.folder import RunFolder

WAVES = range(1, 9)


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


def resolved(kept: np.ndarray, true: np.ndarray) -> int:
    r"""The last wavenumber up to which at least half of the energy is kept, from spectra."""
    lost = np.flatnonzero(kept[1:] < 0.5 * true[1:])
    return int(lost[0]) if len(lost) else len(true) - 1


def decoded(store: TrajectoryStore, coder: Path, a: int, b: int) -> np.ndarray:
    r"""What an autoencoder makes of frames a to b - 1 of the truth."""
    z = torch.from_numpy(store.standardised(a, b))
    module = load(coder)
    with torch.no_grad():
        z = module.decode(module.encode(z)).numpy()
    return store.statistics.restore(z, range(a, b))


def operations(folder: Path) -> float:
    r"""Floating point operations of a training, of the model alone."""
    job = yaml.safe_load((folder / "job.yaml").read_text())["training"]
    ranks = RunFolder(folder).manifest()["attempts"][-1]["ranks"]
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    line = next(line for line in lines if "tflops" in line)
    step = 1e12 * line["tflops"] * job["batch"] / line["samples_per_second"]
    return ranks * step * job["steps"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = args.runs / "kolmogorov-emulation"
    store = TrajectoryStore.open(folder / "simulate" / "store")
    scores, energy, true = defaultdict(list), defaultdict(list), {}
    codes, spent = {}, {}
    for path in sorted(folder.glob("forecast-*/analysis.nc"), key=_compression):
        job = yaml.safe_load((path.parent / "job.yaml").read_text())
        (a, b), lead = job["frames"], job["lead"]
        name, truth = f"{_compression(path)}x", store.read(b - lead, b)
        with open_analysis(path.parent) as analysis:
            x = analysis.ensemble()[:, -lead:]
        scores[name].append(by_lead(x, truth))
        energy[f"emulator {name}"].append(np.mean([spectrum(m) for m in x], 0))
        used = [folder / job["prior"]]
        if job["decoder"]:
            codes[name] = folder / job["decoder"]
            used.append(codes[name])
            again = decoded(store, codes[name], b - lead, b)
            energy[f"autoencoder {name}"].append(spectrum(again))
        spent[name] = sum(map(operations, used))
        if (a, b) not in true:
            last = store.read(b - lead - 1, b - lead)
            kept = by_lead(np.broadcast_to(last, (1, *truth.shape)), truth)
            true[a, b] = spectrum(truth), kept
    if not scores:
        raise SystemExit(f"no forecast under {folder}: hpcinv run jobs/kolmogorov-emulation")
    scores["kept frame"] = [kept for _, kept in true.values()]
    print(f"{len(true)} starts; after ± the standard deviation between them over its root")
    for what, of in (("fair CRPS", 0), ("VRMSE", 1)):
        print(f"{what:<10}" + "".join(f"{n:>15}" for n in scores))
        table = {n: np.array([s[of] for s in found]) for n, found in scores.items()}
        for k in range(len(table["kept frame"][0])):
            cells = (f"{_mean(s[:, k]):>15}" for s in table.values())
            print(f"lead {k + 1:<5}" + "".join(cells))
        print()
    same = np.mean([e for e, _ in true.values()], 0)
    # Large scales are slow: those of a few short forecasts are far from the mean.
    usual = spectrum(store.read(int(store.statistics.count.sum()), store.length))
    for what, wanted in (("truth, same frames", same), ("all withheld", usual)):
        print(f"{'over ' + what:<24}" + "".join(f"k {k}".rjust(7) for k in WAVES))
        for name, found in energy.items():
            e = np.mean(found, 0)
            print(f"{name:<24}" + "".join(f"{e[k] / wanted[k]:7.2f}" for k in WAVES))
        print()
    share = np.cumsum(usual) / usual.sum()
    for name in codes:
        k = resolved(np.mean(energy[f"autoencoder {name}"], 0), same)
        print(f"{name} resolves wavenumbers 1 to {k}, {share[k]:.1%} of the energy")
    print("trained with " + ", ".join(f"{n / 1e12:.2f} TFLOP ({k})" for k, n in spent.items()))


def _mean(x: np.ndarray) -> str:
    r"""The mean over starts and its standard error."""
    if len(x) < 2:
        return f"{x.mean():.3f}"
    return f"{x.mean():.3f} ± {x.std(ddof=1) / len(x) ** 0.5:.3f}"


def _compression(path: Path) -> int:
    return int(path.parent.name.split("-")[1].removesuffix("x"))


if __name__ == "__main__":
    main()
