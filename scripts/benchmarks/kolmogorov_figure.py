r"""The figure of jobs/kolmogorov: one moment of the flow, by instrument.

    hpcinv run jobs/kolmogorov --preset medium
    python scripts/benchmarks/kolmogorov_figure.py FIGURE --runs runs --start 4224

For each instrument one row: the vorticity of the truth in a frame, what was seen of u in it, the
vorticity of two members and the deviation of all, and the energy by wavenumber over all frames:
of the truth, of members, and of a method without a model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from kolmogorov import spectrum

from hpcinv.io.analysis import open_analysis
from hpcinv.io.store import TrajectoryStore
from hpcinv.observations.table import ObservationTable
from hpcinv.simulators import make

BESIDE = {
    "points": "interpolation",
    "coarse": "interpolation",
    "saturating": "interpolation",
    "super": "oi",
}
TITLES = (
    "truth: vorticity",
    "seen of u",
    "a member",
    "another",
    "deviation of members",
    "energy by wavenumber",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figure", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument(
        "--start", type=int, default=3840, help="frame analysed first: 3840, of medium 4224"
    )
    parser.add_argument("--frame", type=int, default=12, help="that of the pictures, from there")
    a = parser.parse_args()

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    folder = a.runs / "kolmogorov"
    store = TrajectoryStore.open(folder / "simulate" / "store")
    dynamics = make(store.attributes["simulator"], store.attributes["options"])

    def vorticity(x: np.ndarray) -> np.ndarray:
        return dynamics.vorticity(torch.from_numpy(x.astype(np.float64))).numpy()

    fig = Figure(figsize=(13, 2.15 * len(BESIDE)), dpi=75, layout="constrained")
    axes = fig.subplots(len(BESIDE), 6, width_ratios=[1, 1, 1, 1, 1, 1.3])
    for k, title in enumerate(TITLES):
        axes[0][k].set_title(title, fontsize=9)
    for row, (case, beside) in zip(axes, BESIDE.items(), strict=True):
        with open_analysis(folder / f"reanalysis-{case}") as analysis:
            x = analysis.ensemble()
        with open_analysis(folder / f"{beside}-{case}") as analysis:
            other = np.mean([spectrum(analysis.read(m)) for m in analysis.members[:4]], 0)
        truth = store.read(a.start, a.start + x.shape[1])
        w, of = vorticity(truth[a.frame]), vorticity(x[:, a.frame])
        top = np.abs(w).max()
        field = {"cmap": "RdBu_r", "vmin": -top, "vmax": top, "origin": "lower"}
        row[0].imshow(w, **field)
        seen(
            row[1],
            ObservationTable.load(folder / f"observe-{case}" / "observations.nc"),
            a.frame,
            truth.shape[-1],
        )
        row[2].imshow(of[0], **field)
        row[3].imshow(of[1], **field)
        row[4].imshow(of.std(0, ddof=1), cmap="Greys", vmin=0, vmax=top / 3, origin="lower")
        k = np.arange(1, truth.shape[-1] // 2 + 1)
        row[5].loglog(k, spectrum(truth)[k], "k", label="truth")
        members = np.mean([spectrum(m) for m in x], 0)
        row[5].loglog(k, members[k], "C3", label="members")
        row[5].loglog(k, other[k], "C0", lw=0.8, label=beside)
        row[5].set_ylim(spectrum(truth)[1 : truth.shape[-1] // 3].min() / 10)
        row[5].legend(fontsize=7, frameon=False)
        row[5].set_xticks([1, 4, 10, 30], ["1", "4", "10", "30"])
        row[5].minorticks_off()
        row[5].tick_params(labelsize=7)
        row[0].set_ylabel(case)
        for ax in row[:5]:
            ax.set_xticks([])
            ax.set_yticks([])
    fig.savefig(a.figure)


def seen(ax, table, frame: int, n: int) -> None:
    r"""What a table tells of u in a frame, where it saw it; none in frames without any."""
    of_u = [k for k, name in enumerate(table.variables) if name in ("u", "su")]
    rows = (table.frame == frame) & np.isin(table.channel, of_u)
    i, j = np.unravel_index(table.point[rows], (n, n))
    ax.scatter(j, i, c=table.value[rows], s=6, cmap="PuOr_r", vmin=-2, vmax=2)
    ax.set_xlim(-0.5, n - 0.5)
    ax.set_ylim(-0.5, n - 0.5)
    ax.set_aspect("equal")


if __name__ == "__main__":
    main()
