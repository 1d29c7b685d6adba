r"""The two-field tutorial of PDAF (pdaf.awi.de, LGPL-3.0): its ESTKF beside our ETKF.

    python scripts/benchmarks/pdaf.py FOLDER        # with inputs_online/ and ref_ESTKF/

Eighteen steps of a model that moves two fields by a row; the first field is observed at 28 points
every second step, both are updated. The reference of the second field was not run from the
files ensB_*.txt that come with it (waves of 18 × 36 points, mean 0.45), but from waves half as
long, with mean zero: undoing the transforms, which the first field fixes, from the second
field's final members gives cos(2 (2π row / 18 − 2π column / 36) + 170° + 40° k) for member k.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from hpcinv.assimilation import ensemble


def second_field(members: int = 9) -> np.ndarray:
    r"""What the reference of the second field began with, (members, 18, 36)."""
    row, column = np.meshgrid(np.arange(18) / 18, np.arange(36) / 36, indexing="ij")
    phase = np.deg2rad(170 + 40 * np.arange(members))[:, None, None]
    return np.cos(4 * np.pi * (row - column) + phase)


def run(folder: Path) -> SimpleNamespace:
    r"""All means, `{(file, step, "for" | "ana"): field}`, and the last members."""

    def read(name: str) -> np.ndarray:
        return np.loadtxt(folder / name)

    first = np.stack([read(f"inputs_online/ens_{i}.txt") for i in range(1, 10)])
    E = np.stack([first, second_field()], 1)
    means = {}
    for step in range(1, 19):
        E = np.roll(E, 1, axis=2)
        if step % 2:
            continue
        y = read(f"inputs_online/obs_step{step}.txt")
        seen = y > -999
        before = E
        E = ensemble.etkf(
            E.reshape(9, -1), E[:, 0, seen], y[seen], np.full(seen.sum(), 0.25)
        ).reshape(E.shape)
        for kind, x in (("for", before), ("ana", E)):
            for k, field in enumerate(("state", "stateB")):
                means[field, step, kind] = x[:, k].mean(0)
    names = ("ens", "ensB")
    members = {(names[k], i + 1): E[i, k] for k in range(2) for i in range(9)}
    return SimpleNamespace(means=means, members=members, read=read)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    found = run(parser.parse_args().folder)
    print("step   field    theirs (point 5, 7)         ours                  largest difference")
    for (field, step, kind), x in found.means.items():
        if kind == "ana":
            y = found.read(f"ref_ESTKF/{field}_step{step:02}_ana.txt")
            print(f"{step:4d}   {field:7s} {y[5, 7]:22.16f} {x[5, 7]:22.16f} "
                  f"{np.abs(x - y).max():12.1e}")  # fmt: skip
    worst = max(
        np.abs(x - found.read(f"ref_ESTKF/{f}_{i:02}_step18_ana.txt")).max()
        for (f, i), x in found.members.items()
    )
    print(f"members after the last analysis: largest difference {worst:.1e}")


if __name__ == "__main__":
    main()
