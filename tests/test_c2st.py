"""C2ST of distributions whose best classifier is known, and beside scikit-learn's."""

import importlib.util
import math
from types import SimpleNamespace

import numpy as np
import pytest

from hpcinv.errors import BadInput
from hpcinv.evaluation.c2st import c2st
from hpcinv.kinds.evaluate_posterior import _reference


def normal(n, P, seed, shift=0.0, scale=1.0):
    x = np.random.default_rng(seed).standard_normal((n, P)) * scale
    x[:, 0] += shift
    return 5 + 3 * x


def test_the_best_classifier_tells_as_many():
    same = c2st(normal(800, 2, 0), normal(800, 2, 1))
    assert abs(same["value"] - 0.5) < 0.04 and same["samples"] == 800
    # Two normals a distance d apart: the best tells Phi(d / 2) of them.
    found = c2st(normal(800, 2, 2), normal(900, 2, 3, shift=1.5))
    exact = 0.5 * (1 + math.erf(1.5 / 2 / math.sqrt(2)))
    assert found["value"] == pytest.approx(exact, abs=0.04)
    assert found["low"] < found["value"] < found["high"] and found["samples"] == 800
    # Of half the spread, in two dimensions: inside a circle r² = 4/3 log 2 it is the narrow one.
    found = c2st(normal(800, 2, 4), normal(800, 2, 5, scale=0.5))
    r2 = 4 / 3 * math.log(2)
    exact = 0.5 * (1 - math.exp(-2 * r2) + math.exp(-r2 / 2))
    assert found["value"] == pytest.approx(exact, abs=0.04)


def test_it_is_a_function_of_its_names():
    a, b = normal(300, 2, 0), normal(300, 2, 1, shift=1.0)
    assert c2st(a, b, name=3) == c2st(a, b, name=3) != c2st(a, b, name=4)


@pytest.mark.skipif(not importlib.util.find_spec("sklearn"), reason="scikit-learn: extra 'sbi'")
def test_it_is_that_of_sbibm():
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parents[1] / "scripts/benchmarks"))
    import sbibm

    for k, (shift, scale) in enumerate(((0.3, 1.0), (0.0, 0.8))):
        a, b = normal(1000, 2, 2 * k), normal(1000, 2, 2 * k + 1, shift, scale)
        assert c2st(a, b)["value"] == pytest.approx(sbibm.c2st(a, b, 5), abs=0.03)


class Found:
    """Samples of three observations as an infer job leaves them; the second failed."""

    attributes = {"parameters": [{}, {}]}  # noqa: RUF012
    columns = {"samples": ((300, 2), "f4")}  # noqa: RUF012
    seen = np.stack([normal(300, 2, k) for k in range(3)])

    def __len__(self):
        return 3

    def read(self, name, start, stop):
        return {"ok": np.array([1, 0, 1]), "samples": self.seen}[name][start:stop]


def test_reference_samples_of_a_file_are_checked_and_compared(tmp_path):
    path = tmp_path / "exact.npy"
    job = SimpleNamespace(reference=str(path), seed=0)
    ctx = SimpleNamespace(
        progress=SimpleNamespace(begin=lambda _: None, update=lambda *_: None), say=print
    )
    there = np.stack([normal(300, 2, k + 9, shift=k) for k in range(3)])
    np.save(path, there)
    told = _reference(job, Found(), ctx)
    assert [e["observation"] for e in told["each"]] == [0, 2]
    near, far = (e["value"] for e in told["each"])
    assert near < 0.58 and far == pytest.approx(0.84, abs=0.06)  # Phi(1) of two deviations
    assert told["c2st"]["value"] == pytest.approx((near + far) / 2)
    for wrong, said in (
        (there[..., :1], r"shape \(3, 300, 1\), for 3 observations of 2 parameters"),
        (np.concatenate([there, there]), "for 3 observations"),
        (there[:, :50], "50 samples are too few"),
        (np.full_like(there, np.nan), "no observation has both"),
    ):
        np.save(path, wrong)
        with pytest.raises(BadInput, match=said):
            _reference(job, Found(), ctx)
    path.write_text("1 2 3")
    with pytest.raises(BadInput, match="cannot be read"):
        _reference(job, Found(), ctx)
