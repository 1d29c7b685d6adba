r"""Scores by lead time, against their definitions and against those of whole analyses."""

import numpy as np
import pytest
from test_evaluation_report import GRIDS, L, M, ensembles, store

from hpcinv.errors import BadInput
from hpcinv.evaluation.crps import crps
from hpcinv.evaluation.lead_times import lead_times
from hpcinv.evaluation.sums import evaluate

LEAD = 3


@pytest.mark.parametrize("grid", ["globe", "box"])
def test_by_lead_time_as_defined(grid):
    truth = GRIDS[grid]
    results = ensembles(truth, one=(0.3, 0.3), two=(1.0, 0.5))
    sums = {
        n: evaluate(r, truth, members=range(M), length=L, truth_start=0)
        for n, r in results.items()
    }
    scale = np.linspace(2.0, 3.0, len(truth.channels))
    found = lead_times(sums, truth, 0, LEAD, scale)
    w = np.broadcast_to(truth.weights(), truth.grid)
    w = w / w.sum() / len(scale)
    s = scale.reshape(-1, *[1] * len(truth.grid))
    last = truth.x[L - LEAD - 1] / s
    for k, t in enumerate(range(L - LEAD, L)):
        y = truth.x[t] / s
        centre = len(scale) * (w * y).sum(tuple(range(1, y.ndim)), keepdims=True)
        own = (w * (y - centre) ** 2).sum()
        for name, reader in results.items():
            x = reader.x[:, t] / s
            of = found["methods"][name]
            assert of["crps"][k] == pytest.approx((w * crps(x, y)).sum(), rel=1e-5)
            error = (w * (x.mean(0) - y) ** 2).sum()
            assert of["vrmse"][k] == pytest.approx(np.sqrt(error / own), rel=1e-5)
            spread = (M + 1) / M * (w * x.var(0, ddof=1)).sum()
            assert of["spread_skill"][k] == pytest.approx(np.sqrt(spread / error), rel=1e-5)
        assert found["kept"]["crps"][k] == pytest.approx((w * abs(last - y)).sum(), rel=1e-5)
        wanted = np.sqrt((w * (last - y) ** 2).sum() / own)
        assert found["kept"]["vrmse"][k] == pytest.approx(wanted, rel=1e-5)


def test_what_is_not_valid_counts_for_nothing():
    truth = store({"y": np.arange(4.0), "x": np.arange(5.0)}, ["w"], ["1"], time_units="1")
    truth.mask = np.arange(20).reshape(4, 5) % 3 > 0
    truth.weights = lambda: 1.0 * truth.mask
    results = ensembles(truth, one=(0.3, 0.3))
    sums = {"one": evaluate(results["one"], truth, members=range(M), length=L, truth_start=0)}
    before = lead_times(sums, truth, 0, LEAD)
    truth.x[..., ~truth.mask] = np.nan
    assert lead_times(sums, truth, 0, LEAD) == before


def test_a_forecast_of_all_frames_is_refused(tmp_path):
    from test_assimilate_modes import study

    from hpcinv.kinds.study import load

    folder = study(tmp_path / "tiny")
    (folder / "9_evaluate.yaml").write_text(
        "kind: evaluate\ntruth: import\nframes: [24, 36]\nanalyses: [forecast]\nlead: 12\n"
    )
    with pytest.raises(BadInput, match="a forecast of 12 of 12 frames leaves none"):
        load(folder).check()
    text = (folder / "9_evaluate.yaml").read_text()
    (folder / "9_evaluate.yaml").write_text(text.replace("lead: 12", "lead: 3"))
    with pytest.raises(BadInput, match="'forecast' forecasts 4 frames, not 3"):
        load(folder).check()
