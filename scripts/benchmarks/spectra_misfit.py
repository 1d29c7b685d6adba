#!/usr/bin/env python
r"""How often the test of misspecification finds spectra that the simulator could not have made.

    hpcinv run jobs/exoplanet/1_simulate.yaml (and 2_withheld, 3_train)
    OMP_NUM_THREADS=1 python scripts/benchmarks/spectra_misfit.py runs/exoplanet [--spectra 200]

Withheld spectra say how far from its posterior predictive draws, with --fit-steps from its best
fit, in the embedding and by itself a spectrum usually lies; the faults are made of fresh draws of
the prior, which are neither. The table has the share of spectra with p <= 0.05, by each statistic
and by all (their least p times their number), as `kind: evaluate` tells it for an observation of
one's own.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from hpcinv.evaluation.posterior_fit import departure, p_values
from hpcinv.inference.summaries import Wanted, infer
from hpcinv.io.rows import Rows
from hpcinv.kinds.simulate import simulator_of
from hpcinv.models import load
from hpcinv.simulators.base import Key
from hpcinv.simulators.running import Runner


def faults(simulator, n: int, seed: int):
    r"""Names of faults, and noisy spectra (n, C) that have them."""
    key = Key(seed, np.arange(n))
    theta = simulator.prior.sample(key).double()
    flux, other = (
        simulator.flux(theta),
        simulator.flux(simulator.prior.sample(key.again(1)).double()),
    )
    error = simulator.error(flux)
    lam = np.array(simulator.outputs.axes[0].values)
    noise = key.normal("misfit", flux.shape[1:], torch.float64)

    def seen(f, e=error, less=1.0):
        return torch.asinh((f + less * e * noise) / simulator.floor).float().numpy()

    channel = len(lam) // 2
    red = torch.from_numpy(lam > np.median(lam))
    own = simulator.temperature

    def inverted(theta, p):  # a hot layer above 0.1 bar, which Guillot's profile has not
        return own(theta, p) + 600 * torch.exp(-(((p / 1e3).log() / 2) ** 2))

    simulator.temperature = inverted
    hot = simulator.flux(theta)
    simulator.temperature = own
    line = torch.zeros(len(lam), dtype=torch.float64)
    line[channel] = 1.0
    yield "none (false alarms)", seen(flux)
    for k in (3, 6, 12):
        yield f"an unknown line of {k} deviations in one channel", seen(flux - k * error * line)
    yield "errors twice those told", seen(flux, less=2.0)
    yield "upper half of the channels 10% too bright", seen(torch.where(red, 1.1 * flux, flux))
    yield "a layer 600 K hotter at 1 mbar to 0.1 bar", seen(hot, simulator.error(hot))
    mean = (flux + other) / 2
    yield "two atmospheres on one disc", seen(mean, simulator.error(mean))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="the run folder of jobs/exoplanet")
    parser.add_argument("--spectra", type=int, default=200, help="with each fault")
    parser.add_argument("--predictive", type=int, default=16, help="draws of each, as in 4_infer")
    parser.add_argument("--fit-steps", type=int, default=0, help="of a best fit of each")
    parser.add_argument("--seed", type=int, default=5)
    a = parser.parse_args()
    statistics = ["predictive", *(["best fit"] if a.fit_steps else []), "embedding", "data"]
    columns = ["x", "features", "departure", *(["misfit"] if a.fit_steps else [])]
    torch.set_num_threads(1)
    began = time.process_time()
    withheld = Rows(a.study / "withheld")
    simulator = simulator_of(withheld.attributes["simulate"])
    flow = load(a.study / "train")
    wanted = Wanted(50, [0.5], map_steps=0, predictive=a.predictive, seed=a.seed,
                    fit_steps=a.fit_steps)  # fmt: skip
    runner = Runner(lambda: simulator, simulator)

    def judged(x, first):
        found = []
        for i in range(0, len(x), 50):
            part = x[i : i + 50]
            seen = {"x": part, "truth": None, "ok": np.ones(len(part), bool)}
            ids = range(first + i, first + i + len(part))
            out = infer(flow, seen, ids, wanted, simulator, simulator.prior, runner)
            out["departure"] = departure(out["x"], out["predictive"])
            found.append([out[k] for k in columns])
        return dict(zip(columns, map(np.concatenate, zip(*found, strict=True)), strict=True))

    ok = withheld.read("ok").astype(bool)
    x = torch.from_numpy(withheld.read("x")[ok])
    usual = judged(simulator.noise(x, Key(0, np.flatnonzero(ok))).numpy(), 0)
    print(f"| fault ({a.spectra} spectra) | {' | '.join(statistics)} | all |")
    print("|---" * (len(statistics) + 2) + "|")
    with torch.no_grad():
        for n, (name, seen) in enumerate(faults(simulator, a.spectra, a.seed)):
            whole = np.isfinite(seen).all(1)
            p = p_values(usual, judged(seen[whole], 10**6 * (n + 1)))
            shares = [np.mean(np.array(p["statistics"][s]["p"]) <= 0.05) for s in statistics]
            shares.append(np.mean(np.array(p["p"]) <= 0.05))
            print(f"| {name} | {' | '.join(f'{100 * s:.1f}%' for s in shares)} |", flush=True)
    print(f"{len(usual['x'])} withheld spectra, {time.process_time() - began:.0f} s")


if __name__ == "__main__":
    main()
