r"""Misspecification tests on a linear-Gaussian system: false alarms, power, attribution.

    python scripts/benchmarks/misspecification.py [--repeats 400] [--seed 0] [--gradient 3]

A ring of 60 points, frames of an AR(1) process (0.5) about a mean of 3 ± 3 deviations, four
instruments of 8 observations each (σ half a prior deviation), the analysis exact. The prior
believes a correlation length of 6 points; truth has 5, and tails heavier than Gaussian: an
imperfect but serviceable prior, so that a null from the prior's own samples is wrong and one from
withheld truths is not. Wrong physics are truths whose memory or length is far outside of what
prior and withheld truths have. Beside the features of `hpcinv.evaluation.misspecification` there
are two for each group: the mean square of its departures from what the *other* instruments tell of
its places (an instrument that is elsewhere disagrees with its neighbours, while its own O−B looks
right), and the product of departures of successive frames. Every case is F frames; every repeat
has a truth and noise of its own that no fit has seen. False alarms are counted in ten times as
many repeats: their rate is exact on average over the withheld truths; of one draw of them (1,200
for the distribution) it is 0.05 with a deviation of 0.006, and 400 repeats would add another of
0.011.
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

POINTS, INSTRUMENTS, EACH, SIGMA, MEMORY, LENGTH = 60, 4, 8, 0.5, 0.5, 5.0
SECTORS = 4
KNOTS = 1.94384  # m s-1


class Ring:
    r"""The system: prior, observations, exact analysis; cases with or without a fault.

    Arguments:
        frames: Of a case.
        seed: Of the places.
        plain: Without the features of other instruments and of successive frames.
        gradient: Root mean square of the mean's wave around the ring.
    """

    def __init__(
        self, frames: int, seed: int = 0, plain: bool = False, gradient: float = 3.0
    ) -> None:
        self.frames, self.plain = frames, plain
        rng = np.random.default_rng(seed)
        x = np.arange(POINTS)
        self.distance = np.minimum(np.abs(x[:, None] - x), POINTS - np.abs(x[:, None] - x))
        self.place = np.concatenate([rng.permutation(POINTS)[:EACH] for _ in range(INSTRUMENTS)])
        self.instrument = np.repeat(np.arange(INSTRUMENTS), EACH)
        wave = np.sqrt(2) * np.cos(2 * np.pi * x / POINTS)
        self.mean = (3 + gradient * wave) * (gradient > 0)
        H = np.eye(POINTS)[self.place]
        self.S = H @ self._correlation(6.0) @ H.T + SIGMA**2 * np.eye(len(H))
        # O−A = R S^-1 (O−B), the analysis being exact.
        P = np.linalg.inv(self.S)
        self.to_analysis = SIGMA**2 * P
        # O minus what the other instruments and the prior tell: (P_gg)^-1 (P d)_g.
        own = self.instrument[:, None] == self.instrument
        variance = np.linalg.inv(np.where(own, P, 0.0))
        self.to_others, self.others = variance @ P, np.diag(variance)
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

    def cases(self, number: int, rng: np.random.Generator, own: bool = False) -> tuple:
        r"""What truth and noise of cases are made from; `features` makes data of it."""
        z = rng.standard_normal((number, self.frames, POINTS))
        if not own:  # Student's t with 8 degrees of freedom, variance one, one factor a frame
            z *= np.sqrt(6 / rng.chisquare(8, (number, self.frames, 1)))
        return z, rng.standard_normal((number, self.frames, len(self.place))), own

    def truth(self, cases: tuple, memory: float = MEMORY, length: float = LENGTH) -> np.ndarray:
        r"""Departures of the truth from the prior's mean, everywhere."""
        z, _, own = cases
        z = z.copy()
        for t in range(1, self.frames):
            z[:, t] = memory * z[:, t - 1] + np.sqrt(1 - memory**2) * z[:, t]
        C = self._correlation(6.0 if own else length)
        return z @ np.linalg.cholesky(C + 1e-6 * np.eye(POINTS)).T

    def features(
        self, cases: tuple, *, factor: float = 1.0, bias: float = 0.0, all_bias: float = 0.0,
        wave: float = 0.0, shift: float = 0.0, moved: int = 0, units: float = 1.0,
        instrument: int = 0, **physics: float,
    ) -> np.ndarray:  # fmt: skip
        r"""Features of cases with a fault.

        Arguments:
            factor: Of one instrument's σ.
            bias: Of one instrument, in σ.
            all_bias: Of all, in prior deviations.
            wave: Shift of the truth's mean along a wave around the ring, rms in prior deviations.
            shift: The same, of all points alike.
            moved: Points by which one instrument's positions are wrong.
            units: What one instrument's values are multiplied by.
            physics: `memory` and `length` of the truth.
        """
        mine = self.instrument == instrument
        place = np.where(mine, (self.place + moved) % POINTS, self.place)
        mean = shift + wave * np.sqrt(2) * np.sin(2 * np.pi * np.arange(POINTS) / POINTS)
        y = (self.truth(cases, **physics) + self.mean + mean)[..., place]
        y = y + SIGMA * np.where(mine, factor, 1.0) * cases[1]
        y = (y + np.where(mine, bias * SIGMA, 0.0) + all_bias) * np.where(mine, units, 1.0)
        d = y - self.mean[self.place]
        a = d @ self.to_analysis.T
        g, v = self.groups.T, np.diag(self.S)
        every = lambda v: np.broadcast_to(v @ g, (*d.shape[:-1], g.shape[1]))  # noqa: E731
        told = self.mean[self.place]
        found = features(SimpleNamespace(
            count=every(np.ones(len(v))), sigma2=every(SIGMA**2 * np.ones(len(v))), d_b=d @ g,
            d2_b=d**2 @ g, v2_b=every(v), d_a=a @ g, cross=(a * d) @ g, told=every(told),
            told2=every(told**2), along=(told * d) @ g,
        ))  # fmt: skip
        if self.plain:
            return found
        o = d @ self.to_others.T
        others = (o**2).sum(1) @ g / (self.frames * self.others @ g)
        lag = (d[:, 1:] * d[:, :-1]).sum(1) @ g / (max(self.frames - 1, 1) * v @ g)
        return np.concatenate([found, others, *([lag] if self.frames > 1 else [])], -1)


FAULTS = {
    **{f"σ of instrument {k + 1}": {"factor": 2.0, "instrument": k} for k in range(INSTRUMENTS)},
    **{f"bias of instrument {k + 1}": [{"bias": b, "instrument": k} for b in (1, -1, 3, -3)]
       for k in range(INSTRUMENTS)},
    **{f"places of instrument {k + 1}": {"moved": 3, "instrument": k}
       for k in range(INSTRUMENTS)},
    **{f"units of instrument {k + 1}": [{"units": 1.15, "instrument": k},
                                        {"units": KNOTS, "instrument": k}]
       for k in range(INSTRUMENTS)},
    "bias of all": {"all_bias": 1.0},
    "prior shifted along a wave": {"wave": 1.0},
    "prior shifted everywhere": {"shift": 1.0},
    "physics: memory": {"memory": 0.9},
    "physics: length": {"length": 2.5},
}  # fmt: skip
OTHER = {
    **{f"units of instrument {k + 1}": {"units": KNOTS, "instrument": k}
       for k in range(INSTRUMENTS)},
    **{f"bias of instrument {k + 1}": {"bias": -2.0, "instrument": k} for k in range(INSTRUMENTS)},
    **{f"σ of instrument {k + 1}": {"factor": 3.0, "instrument": k} for k in range(INSTRUMENTS)},
    "physics: memory": {"memory": 0.97},
    "physics: length": {"length": 1.5},
}  # fmt: skip


def learn(ring: Ring, truths: int, rng: np.random.Generator, own: bool = False):
    r"""The test, from withheld truths (or from the prior's own samples)."""
    cases = ring.cases(truths, rng, own)
    null = ring.features(cases)
    few = (cases[0][: truths // 2], cases[1][: truths // 2], own)
    return Misspecification(null, {
        n: [ring.features(few, **f) for f in (sizes if isinstance(sizes, list) else [sizes])]
        for n, sizes in FAULTS.items()
    })  # fmt: skip


def power(test: Misspecification, x: np.ndarray) -> float:
    return float((test.p_values(x) <= test.level).mean())


def confusion(ring, test, repeats: int, rng, faults=None) -> dict[str, dict[str, float]]:
    r"""How often each fault (those that are looked for by default) is told as what."""
    out = {}
    for name, fault in {"nothing wrong": {}, **(faults or FAULTS)}.items():
        fault = fault[0] if isinstance(fault, list) else fault
        x = ring.features(ring.cases(repeats, rng), **fault)
        told = [v["told"] for v in test.judge(x)]
        out[name] = {t: told.count(t) / repeats for t in sorted(set(told))}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--truths", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gradient", type=float, default=3.0)
    args = parser.parse_args()
    n = args.repeats
    kinds = {
        "σ of one × 2": {"factor": 2.0}, "× 1.5": {"factor": 1.5},
        "bias of one 1 σ": {"bias": 1.0}, "0.5 σ": {"bias": 0.5},
        "prior shifted 1": {"wave": 1.0}, "0.5": {"wave": 0.5},
        "places by 3": {"moved": 3}, "by 6": {"moved": 6},
        "units × 1.15": {"units": 1.15}, "× 1.94": {"units": KNOTS}, "× 1.05": {"units": 1.05},
        "memory 0.9": {"memory": 0.9}, "0.7": {"memory": 0.7},
        "length 2.5": {"length": 2.5}, "3.5": {"length": 3.5},
    }  # fmt: skip
    print(
        f"{n} repeats, {args.truths} withheld truths, level 0.05, seed {args.seed}; then the power"
    )
    print("frames  observations  effective  false alarms (own samples)  "
          + "  ".join(kinds) + "  places by 3, plain features")  # fmt: skip
    for frames in (2, 4, 8, 16, 32):
        ring = Ring(frames, gradient=args.gradient)
        rng = np.random.default_rng([args.seed, frames])
        test = learn(ring, args.truths, rng)
        naive = learn(ring, args.truths, rng, own=True)
        clean = ring.features(ring.cases(10 * n, rng))
        row = [power(test, ring.features(ring.cases(n, rng), **f)) for f in kinds.values()]
        plain = Ring(frames, plain=True, gradient=args.gradient)
        less = learn(plain, args.truths, rng)
        row.append(power(less, plain.features(plain.cases(n, rng), moved=3)))
        print(
            f"{frames:6d} {frames * len(ring.place):13d} {ring.effective:10.1f} "
            f"{power(test, clean):13.3f} {power(naive, clean):13.3f}    "
            + " ".join(f"{p:>{len(k)}.3f} " for p, k in zip(row, [*kinds, "plain"], strict=True)),
            flush=True,
        )
    ring = Ring(16, gradient=args.gradient)
    rng = np.random.default_rng([args.seed, 99])
    test = learn(ring, args.truths, rng)
    for title, faults in (
        ("Told as", FAULTS),
        ("Of other sizes, told as", OTHER),
    ):
        print(f"\n{title}, of {n} repeats each (16 frames, {ring.effective:.0f} effective "
              f"observations):")  # fmt: skip
        for name, told in confusion(ring, test, n, rng, faults).items():
            right = told.get(CONSISTENT if name == "nothing wrong" else name, 0.0)
            said = ", ".join(f"{t} {v:.3f}" for t, v in told.items() if v >= 0.01)
            print(f"{name:28s} right {right:.3f}  {CANNOT_TELL} {told.get(CANNOT_TELL, 0):.3f}  "
                  f"[{said}]", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
