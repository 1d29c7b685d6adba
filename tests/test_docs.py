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


def scores(folder: Path, *overrides: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "hpcinv", "run", "ring", *overrides],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "runs/ring/evaluate/scores.json").read_text())["methods"]


def test_a_problem_of_ones_own_takes_under_a_hundred_lines(tmp_path):
    files = written(tmp_path)
    assert sum(len(p.read_text().splitlines()) for p in files) < 100
    methods = scores(tmp_path, *SMALL)
    assert list(methods) == ["analysis", "climatology"]
    assert (tmp_path / "runs/ring/report/report.html").exists()


@pytest.mark.slow
def test_it_solves_the_problem(tmp_path):
    written(tmp_path)
    methods = scores(tmp_path)
    crps = {n: m["channels"]["angle"]["crps"]["value"] for n, m in methods.items()}
    assert crps["analysis"] < 0.7 * crps["climatology"]
