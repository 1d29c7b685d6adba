r"""Weather in small, beyond the pooled scores: by lead time, on withheld soundings, where windows
meet, and the wind against the pressure.

    hpcinv run jobs/weather
    python scripts/benchmarks/weather.py --runs runs

First the fair CRPS of the forecast by lead time, each channel in units of its climatological
deviation, beside its own analysis of the last observed state, kept, and as many states of the
training runs. Then what `evaluate` found: the methods on the soundings that none was shown; the
changes of states where windows meet over those elsewhere, the truth's own counted out; and the
geostrophic imbalance of each level, of members and truth. Last the scores of the fraternal twin.
For each analysis and the truth, too, how far the wind of the lowest level is from geostrophic: the
share of the variance of v, from 30 to 70 degrees, that the gradient of surface pressure does not
explain; for the truth's own states after the autoencoder, too: no analysis that is decoded by it
can be expected to do better.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from hpcinv.evaluation.crps import crps
from hpcinv.io.analysis import open_analysis
from hpcinv.io.store import TrajectoryStore
from hpcinv.models import load

OMEGA, RADIUS, GAS = 7.292e-5, 6.37122e6, 287.0


def ageostrophic(x: np.ndarray, lat: np.ndarray, level: int) -> float:
    r"""1 - R^2 of v on (R T / f a cos lat) d ln(ps) / d lon, of states (n, C, h, w)."""
    levels = (x.shape[1] - 1) // 3
    v, t, ps = x[:, levels + level], x[:, 2 * levels + level], x[:, -1]
    f = 2 * OMEGA * np.sin(np.radians(lat))
    k = np.fft.rfftfreq(ps.shape[-1], 1 / ps.shape[-1])
    slope = np.fft.irfft(1j * k * np.fft.rfft(np.log(ps)), ps.shape[-1])
    near = (np.abs(lat) > 30) & (np.abs(lat) < 70)
    told = GAS * t / (f * RADIUS * np.cos(np.radians(lat)))[:, None] * slope
    a, b = told[:, near].ravel(), v[:, near].ravel()
    return float(1 - np.corrcoef(a, b)[0, 1] ** 2)


def through_autoencoder(
    store: TrajectoryStore, model: Path, start: int, frames: int
) -> np.ndarray:
    r"""States as the autoencoder gives them back, in their own units."""
    autoencoder, s = load(model), store.statistics
    x = torch.from_numpy(np.asarray(store.standardised(start, start + frames), np.float32))
    with torch.no_grad():
        seen = autoencoder.decode(autoencoder.encode(x)).numpy()
    return seen * s.std[0] + s.mean[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--start", type=int, default=3300, help="frame analysed first")
    parser.add_argument("--lead", type=int, default=6)
    args = parser.parse_args()
    folder = args.runs / "weather"
    store = TrajectoryStore.open(folder / "simulate" / "store")
    deviation = store.statistics.std[0]
    analyses = sorted(p.parent for p in folder.glob("[!.]*/analysis.nc"))
    with open_analysis(folder / "forecast") as a:
        print_forecast(store, a.ensemble(), args.start, args.lead, deviation)
    lat = np.asarray(store.coords["lat"])
    level = (len(store.channels) - 1) // 3 - 1
    truth = store.read(args.start, args.start + 20)
    print(f"{'truth':20s} {ageostrophic(truth, lat, level):6.3f} of v is not geostrophic")
    seen = through_autoencoder(store, folder / "train-autoencoder", args.start, 20)
    print(f"{'its D(E(x))':20s} {ageostrophic(seen, lat, level):6.3f}")
    for path in analyses:
        with open_analysis(path) as a:
            found = [ageostrophic(a.read(m)[:20], lat, level) for m in a.members[:4]]
        print(f"{path.name:20s} {np.mean(found):6.3f}")
    by_lead = folder / "evaluate-forecast" / "scores.json"
    if by_lead.exists():
        found = json.loads(by_lead.read_text())["forecast"]["methods"]["forecast"]
        told = "  ".join(f"{v:.2f}" for v in found.get("spread_skill", []))
        print(f"forecast's spread over skill by lead time: {told}")
    for name in ("evaluate", "evaluate-twin"):
        card = folder / name / "scores.json"
        if card.exists():
            print_card(name, json.loads(card.read_text()))


def print_card(name: str, card: dict) -> None:
    r"""What an evaluation says of its methods."""
    print(f"\n{name}: RMSE, fair CRPS, spread/skill, rank distance")
    for method, e in card["methods"].items():
        p = e["pooled"]
        told = [p[k]["value"] for k in ("rmse", "crps", "spread_skill", "rank_distance")]
        print(f"{method:20s} {'  '.join(f'{v:.3f}' for v in told)}")
    for method, e in card["methods"].items():
        if (s := e.get("seam")) is not None:
            band = f"{s['low']:.3f} to {s['high']:.3f}"
            print(f"{method}: changes where windows meet {s['ratio']:.3f} ({band}) of elsewhere")
    rows = card.get("withheld", {"methods": {}})
    for method, e in rows["methods"].items():
        p = e["pooled"]["crps"]
        less = rows["differences"].get(method, {}).get("crps")
        more = f"; first minus it {less['low']:.3f} to {less['high']:.3f}" if less else ""
        print(f"{method:20s} withheld {p['value']:.3f} ({p['low']:.3f} to {p['high']:.3f}){more}")
    for method, e in card["methods"].items():
        off = {k: v for k, v in e.get("checks", {}).items() if k.startswith("geostrophic")}
        said = ", ".join(f"{v['members']:.2f} ({v['truth']:.2f})" for v in off.values())
        if said:
            print(f"{method:20s} geostrophic imbalance, m/s, from the ground up: {said}")


def print_forecast(
    store: TrajectoryStore, x: np.ndarray, start: int, lead: int, deviation: np.ndarray
) -> None:
    r"""CRPS by lead time, of members (M, L, C, h, w)."""
    n = x.shape[1]
    truth = store.read(start, start + n) / deviation
    x = x / deviation
    weights = np.cos(np.radians(np.asarray(store.coords["lat"])))[:, None]
    weights = np.broadcast_to(weights / weights.mean(), truth.shape[1:]).ravel()
    rng = np.random.default_rng(0)
    times = rng.integers(int(store.statistics.count[0]), size=len(x))
    climate = np.stack([store.read(t, t + 1)[0] for t in times]) / deviation
    print("lead   forecast  kept analysis  climatology")
    for k in range(n - lead, n):
        row = [
            (crps(e.reshape(len(e), -1), truth[k].ravel()) * weights).mean()
            for e in (x[:, k], x[:, n - lead - 1], climate)
        ]
        print(f"{k - n + lead + 1:4d}  {row[0]:9.3f}  {row[1]:13.3f}  {row[2]:11.3f}")
    print()


if __name__ == "__main__":
    main()
