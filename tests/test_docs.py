r"""The pages of docs/ do what they say: their files are written out and run as they stand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "bring-your-own.md"
SMALL = (
    "simulate.simulations=20", "simulate.trajectory.training=18", "train.training.steps=20",
    "analysis.members=2", "analysis.sampler.steps=4", "climatology.members=2",
    "observe.frames=[1152, 1216]", "train.frames=[0, 1152]", "analysis.frames=[1152, 1216]",
    "climatology.frames=[1152, 1216]", "climatology.training=[0, 1152]",
    "evaluate.frames=[1152, 1216]", "report.frames=[1152, 1216]",
)  # fmt: skip


def written(folder: Path) -> list[Path]:
    r"""The page's files."""
    blocks = re.findall(r"```\w+ file=(\S+)\n(.*?)```", PAGE.read_text(), re.S)
    for name, text in blocks:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return [folder / name for name, _ in blocks]


def scores(folder: Path, *overrides: str, study: str = "ring") -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "hpcinv", "run", study, *overrides],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "runs" / study / "evaluate/scores.json").read_text())


def lines(files: list[Path], *names: str) -> int:
    r"""Of the files that lie in, or are, one of the names."""
    mine = [p for p in files if {p.name, p.parent.name} & set(names)]
    return sum(len(p.read_text().splitlines()) for p in mine)


def test_a_problem_of_ones_own_takes_under_a_hundred_lines(tmp_path):
    files = written(tmp_path)
    assert 60 < lines(files, "pendulums.py", "ring") < 100
    methods = scores(tmp_path, *SMALL)["methods"]
    assert list(methods) == ["analysis", "climatology"]
    assert (tmp_path / "runs/ring/report/report.html").exists()


@pytest.mark.slow
def test_it_solves_the_problem(tmp_path):
    written(tmp_path)
    methods = scores(tmp_path)["methods"]
    crps = {n: m["channels"]["angle"]["crps"]["value"] for n, m in methods.items()}
    assert crps["analysis"] < 0.7 * crps["climatology"]


@pytest.mark.slow
def test_parameters_of_ones_own_take_under_a_hundred_lines(tmp_path):
    files = written(tmp_path)
    assert 40 < lines(files, "swings.py", "swing") < 100
    small = ("simulate.simulations=300", "withheld.simulations=100", "train.training.steps=40")
    card = scores(tmp_path, *small, "infer.samples=40", study="swing")
    # Forty steps teach something already: the length is told from its prior.
    assert card["simulations"] == 100 and card["parameters"]["length"]["contraction"]["value"] > 0
    page = (tmp_path / "runs/swing/report/report.html").read_text()
    assert "How long is the pendulum?" in page


@pytest.mark.slow
def test_they_are_calibrated(tmp_path):
    written(tmp_path)
    card = scores(tmp_path, study="swing")
    assert card["calibrated"]
    length, damping = (
        card["parameters"][k]["contraction"]["value"] for k in ("length", "damping")
    )
    assert length > 0.95 and 0.3 < damping < 0.8
