"""Simulations on Slurm that fail in every way, and a study that ends with a report."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_simulate import JOB, STUDY

from hpcinv.io.rows import Rows

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_a_study_ends_and_tells_what_was_lost_and_made_again(cluster, tmp_path):
    """1% of the simulations fail, task 0 is killed, a shard of each is truncated."""
    study, runs = tmp_path / "toy", tmp_path / "runs"
    study.mkdir()
    few = "resources: {cpus_per_task: 1, mem_per_task: 1GB, time: 10m}\n"
    cut = few.replace("{", "{array: {over: shards, tasks: 2}, ", 1)
    killed = JOB.replace("fail: 0.01", f"fail: 0.01, kill: {tmp_path / 'once'}")
    (study / "1_simulate.yaml").write_text(killed + cut)
    for name, text in STUDY.items():
        (study / f"{name}.yaml").write_text(text + few)
    env = cluster | {"PYTHONPATH": f"{Path(__file__).parent}:{cluster['PYTHONPATH']}"}

    def hpcinv(*args):
        return subprocess.run(
            [sys.executable, "-m", "hpcinv", *map(str, args), "--runs", str(runs)],
            capture_output=True, text=True, env=env, timeout=1800,
        )  # fmt: skip

    first = hpcinv("submit", study, "--wait")
    assert first.returncode == 1, first.stdout + first.stderr
    (why,) = [
        x for x in json.loads(hpcinv("why", "toy", "--json").stdout) if x["job"] == "toy/simulate"
    ]
    assert why["tasks"] == [0]
    folder = runs / "toy" / "simulate"
    for rows in ("0500-*1000", "2500-*3000"):  # of the killed task, and of the one that had ended
        (part,) = folder.rglob(f"rows-*{rows}.h5")
        part.write_bytes(part.read_bytes()[:3000])

    again = hpcinv("retry", "toy")
    assert again.returncode == 0, again.stdout + again.stderr
    ended = hpcinv("submit", study, "--wait")  # waits for what is in the queue
    assert ended.returncode == 0, ended.stdout + ended.stderr
    failed = int((~Rows(folder).read("ok").astype(bool)).sum())
    assert 15 < failed < 70  # binomial, 40 +- 4 deviations
    page = (runs / "toy" / "report" / "report.html").read_text()
    told = page[page.index("What was lost, and made again") :]
    row = told[told.index('<th scope="row">simulate</th>') :]
    assert re.findall("<td>(.*?)</td>", row)[:5] == [
        "4,000", str(failed), f"{failed} not finite", "rows 500 to 999, rows 2,500 to 2,999",
        "task 0 (2 starts)",
    ]  # fmt: skip
