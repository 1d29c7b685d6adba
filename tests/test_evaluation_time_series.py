"""States without a grid: scored like any others, shown as curves."""

import io

import numpy as np
from PIL import Image

from hpcinv.evaluation.report import picture, report
from hpcinv.evaluation.scores import scorecard
from hpcinv.evaluation.sums import evaluate
from hpcinv.evaluation.time_series import around, curves
from hpcinv.io.statistics import Statistics

L, M = 260, 6


class Series:
    """Truth and ensemble of two numbers."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.x = np.cumsum(rng.standard_normal((L, 2)), 0).astype(np.float32)
        self.members = self.x + rng.standard_normal((M, L, 2)).astype(np.float32)
        self.channels, self.units, self.grid = ["a", "b"], ["1", "1"], ()
        self.standard_names = self.long_names = [None, None]
        self.coords, self.coord_attrs, self.mask, self.length = {}, {}, None, L
        self.time, self.time_units = np.arange(L) * 0.1, "1"

    def weights(self):
        return np.ones(())


class Truth(Series):
    def read(self, start, stop):
        return self.x[start:stop]


class Ensemble(Series):
    def read(self, member, start, stop):
        return self.members[member, start:stop]


def test_a_report_of_numbers_without_a_grid(tmp_path):
    truth, ensemble = Truth(), Ensemble()
    sums = {"ens": evaluate(ensemble, truth, members=range(M), length=L)}
    card = scorecard(sums, channels=["a", "b"], units=["1", "1"], replicates=100)
    rmse = np.sqrt(((truth.members.mean(0) - truth.x) ** 2).mean())
    assert abs(card["methods"]["ens"]["pooled"]["rmse"]["value"] - rmse) < 1e-6
    shown = {"results": {"ens": ensemble}, "members": range(M), "truth": truth, "truth_start": 0}
    page = report(tmp_path / "r.html", title="t", length=L, card=card, **shown).read_text()
    worst = np.argsort(card["methods"]["ens"]["frames"]["rmse"], kind="stable")[(L - 1) // 2]
    frames = around(int(worst), L)
    assert page.count(f"frames {frames.start} to {frames.stop - 1}") >= 2  # both channels
    assert worst in frames and len(frames) == 200
    assert Image.open(picture(tmp_path / "p.png", frame=3, **shown)).size[0] > 500


def test_curves_are_drawn_where_the_numbers_are():
    from matplotlib.figure import Figure

    fig = Figure(figsize=(4, 2), dpi=100)
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set_ylim(-1, 1)
    ax.set_axis_off()
    n = 50
    seen = (np.array([0]), np.array([-0.5]))
    curves(ax, range(n), np.full(n, 0.5), np.full((2, n), 0.0), seen)
    ax.set_ylim(-1, 1)
    raw = io.BytesIO()
    fig.savefig(raw, format="png")
    x = np.asarray(Image.open(raw).convert("RGB")).astype(int)
    column = x[:, 200].sum(1)
    dark = np.flatnonzero(column < 700)
    assert {50, 100} <= set(dark) and set(dark) <= set(range(47, 54)) | set(range(97, 104))
    assert (np.abs(x[145:156, :6] - [0xD9, 0x66, 0x2B]).sum(-1) < 60).any()


def test_statistics_of_a_state_without_a_grid():
    s = Statistics(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), np.array([9]), np.zeros(5, int))
    mean, std = s.at([0, 4], np.array([1, 0]), np.array([0, 0]))
    assert mean.tolist() == [2.0, 1.0] and std.tolist() == [4.0, 3.0]
