r"""Misspecification tests on a linear-Gaussian system: false alarms, power, attribution.

    python scripts/benchmarks/misspecification.py [--repeats 400] [--truths 2400] [--seed 0]

A ring of 60 points, frames of an AR(1) process (0.5), four instruments of 8 observations each
(σ half a prior deviation), the analysis exact. The prior believes a correlation length of 6
points; truth has 5, and tails heavier than Gaussian: an imperfect but serviceable prior, so that a
null from the prior's own samples is wrong and one from withheld truths is not. Every case is F
frames; every repeat has a truth and noise of its own that no fit has seen. False alarms are
counted in ten times as many repeats: their rate is exact on average over the withheld truths; of
one draw of them (1,200 for the distribution) it is 0.05 with a deviation of 0.006, and 400
repeats would add another of 0.011.
"""

from __future__ import annotations

import argparse
from types import SimpleNamespace

import numpy as np

from hpcinv.evaluation.misspecification import (
    CANNOT_TELL,
    CONSISTENT,
    Misspecification,
    effective_number,
    features,
)

POINTS, INSTRUMENTS, EACH, SIGMA, MEMORY = 60, 4, 8, 0.5, 0.5
SECTORS = 4


class Ring:
    r"""The system: prior, observations, exact analysis; cases with or without a fault."""

    def __init__(self, frames: int, seed: int = 0) -> None:
        self.frames = frames
        rng = np.random.default_rng(seed)
        x = np.arange(POINTS)
        self.distance = np.minimum(np.abs(x[:, None] - x), POINTS - np.abs(x[:, None] - x))
        self.place = np.concatenate([rng.permutation(POINTS)[:EACH] for _ in range(INSTRUMENTS)])
        self.instrument = np.repeat(np.arange(INSTRUMENTS), EACH)
        B = self._correlation(6.0)
        H = np.eye(POINTS)[self.place]
        self.S = H @ B @ H.T + SIGMA**2 * np.eye(len(H))
        # O−A = R S^-1 (O−B), the analysis being exact.
        self.to_analysis = SIGMA**2 * np.linalg.inv(self.S)
        self.root = np.linalg.cholesky(self._correlation(5.0) + 1e-9 * np.eye(POINTS))
        self.own = np.linalg.cholesky(B + 1e-9 * np.eye(POINTS))
        sector = self.place * SECTORS // POINTS
        self.groups = np.concatenate([
            self.instrument == np.arange(INSTRUMENTS)[:, None],
            sector == np.arange(SECTORS)[:, None],
        ]).astype(float)  # fmt: skip
        lag = np.abs(np.subtract.outer(np.arange(frames), np.arange(frames)))
        self.effective = effective_number(self.S, MEMORY**lag)

    def _correlation(self, length: float) -> np.ndarray:
        # On a circle the Gaussian of the chord is a covariance, that of the arc is not.
        chord = POINTS / np.pi * np.sin(np.pi * self.distance / POINTS)
        return np.exp(-(chord**2) / (2 * length**2))

    def cases(self, number: int, rng: np.random.Generator, own: bool = False, **fault) -> tuple:
        r"""Truth and noise of cases, from which `observed` makes data: a stream of its own."""
        shape = (number, self.frames, POINTS)
        z = rng.standard_normal(shape)
        if not own:  # Student's t with 8 degrees of freedom, variance one, one factor a frame
            z *= np.sqrt(6 / rng.chisquare(8, (number, self.frames, 1)))
        for t in range(1, self.frames):
            z[:, t] = MEMORY * z[:, t - 1] + np.sqrt(1 - MEMORY**2) * z[:, t]
        x = z @ (self.own if own else self.root).T
        return x, rng.standard_normal((number, self.frames, len(self.place)))

    def features(
        self, cases: tuple, *, factor: float = 1.0, bias: float = 0.0, all_bias: float = 0.0,
        wave: float = 0.0, shift: float = 0.0, moved: int = 0, instrument: int = 0,
    ) -> np.ndarray:  # fmt: skip
        r"""Features of cases with a fault.

        Arguments:
            factor: Of one instrument's σ.
            bias: Of one instrument, in σ.
            all_bias: Of all, in prior deviations.
            wave: Shift of the truth's mean along a wave around the ring, rms in prior deviations.
            shift: The same, of all points alike.
            moved: Points by which one instrument's positions are wrong.
        """
        x, noise = cases
        mine = self.instrument == instrument
        place = np.where(mine, (self.place + moved) % POINTS, self.place)
        mean = shift + wave * np.sqrt(2) * np.sin(2 * np.pi * np.arange(POINTS) / POINTS)
        d = (x + mean)[..., place] + SIGMA * np.where(mine, factor, 1.0) * noise
        d = d + np.where(mine, bias * SIGMA, 0.0) + all_bias
        a = d @ self.to_analysis.T
        g = self.groups.T
        ones = np.ones(d.shape[-1])
        every = lambda v: np.broadcast_to(v @ g, (*d.shape[:-1], g.shape[1]))  # noqa: E731
        return features(SimpleNamespace(
            count=every(ones), sigma2=every(SIGMA**2 * ones), d_b=d @ g, d2_b=d**2 @ g,
            v2_b=every(np.diag(self.S)), d_a=a @ g, cross=(a * d) @ g,
        ))  # fmt: skip


FAULTS = {
    **{f"σ of instrument {k + 1}": {"factor": 2.0, "instrument": k} for k in range(INSTRUMENTS)},
    **{f"bias of instrument {k + 1}": {"bias": 1.0, "instrument": k} for k in range(INSTRUMENTS)},
    **{f"places of instrument {k + 1}": {"moved": 3, "instrument": k}
       for k in range(INSTRUMENTS)},
    "bias of all": {"all_bias": 1.0},
    "prior shifted along a wave": {"wave": 1.0},
    "prior shifted everywhere": {"shift": 1.0},
}  # fmt: skip


def learn(ring: Ring, truths: int, rng: np.random.Generator, own: bool = False):
    r"""The test, from withheld truths (or from the prior's own samples)."""
    cases = ring.cases(truths, rng, own)
    null = ring.features(cases)
    few = tuple(c[: truths // 2] for c in cases)
    return Misspecification(null, {n: ring.features(few, **f) for n, f in FAULTS.items()})


def power(test: Misspecification, x: np.ndarray) -> float:
    return float((test.p_values(x) <= test.level).mean())


def confusion(ring, test, repeats: int, rng) -> dict[str, dict[str, float]]:
    r"""How often each fault (of its full size) is told as what."""
    out = {}
    for name, fault in {"nothing wrong": {}, **FAULTS}.items():
        x = ring.features(ring.cases(repeats, rng), **fault)
        told = [v["told"] for v in test.judge(x)]
        out[name] = {t: told.count(t) / repeats for t in sorted(set(told))}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--truths", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    n = args.repeats
    kinds = ("factor 2 in σ of one instrument", "bias of 1 σ of one instrument",
             "prior shifted by 1 deviation", "factor 1.5 in σ", "bias of 0.5 σ",
             "prior shifted by 0.5", "places wrong by 3 points")  # fmt: skip
    faults = (
        {"factor": 2.0}, {"bias": 1.0}, {"wave": 1.0}, {"factor": 1.5}, {"bias": 0.5},
        {"wave": 0.5}, {"moved": 3},
    )  # fmt: skip
    print(f"{n} repeats, {args.truths} withheld truths, level 0.05, seed {args.seed}")
    print("frames  observations  effective   false alarms (own samples)  " + "  ".join(kinds))
    for frames in (2, 4, 8, 16, 32):
        ring = Ring(frames)
        rng = np.random.default_rng([args.seed, frames])
        test = learn(ring, args.truths, rng)
        naive = learn(ring, args.truths, rng, own=True)
        clean = ring.features(ring.cases(10 * n, rng))
        row = [power(test, ring.features(ring.cases(n, rng), **f)) for f in faults]
        print(
            f"{frames:6d} {frames * len(ring.place):13d} {ring.effective:10.1f} "
            f"{power(test, clean):14.3f} {power(naive, clean):13.3f}    "
            + " ".join(f"{p:>{len(k)}.3f} " for p, k in zip(row, kinds, strict=True)),
            flush=True,
        )
    ring = Ring(16)
    rng = np.random.default_rng([args.seed, 99])
    test = learn(ring, args.truths, rng)
    print(f"\nTold as, of {n} repeats each (16 frames, {ring.effective:.0f} effective "
          f"observations):")  # fmt: skip
    for name, told in confusion(ring, test, n, rng).items():
        right = told.get(CONSISTENT if name == "nothing wrong" else name, 0.0)
        said = ", ".join(f"{t} {v:.3f}" for t, v in told.items() if v >= 0.01)
        print(f"{name:28s} right {right:.3f}  {CANNOT_TELL} {told.get(CANNOT_TELL, 0):.3f}  "
              f"[{said}]")  # fmt: skip


if __name__ == "__main__":
    main()
