"""The scripts in slurm/examples, which people copy, are those that `plan --sbatch` writes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpcinv.kinds.study import load
from hpcinv.launch.by_hand import write_scripts
from hpcinv.launch.profile import load_profile
from hpcinv.shipped import folder

EXAMPLES = folder("slurm") / "examples"
RUNS = Path("/scratch/you/runs")
GPUS = "{tasks_per_node: 4, gpus_per_task: 1, cpus_per_task: 8, time: 12h, mem_per_task: 60GB}"


def write(into: Path, cluster: str, overrides: list[str], only: list[str]) -> None:
    study = load(folder("jobs") / "winds", None, overrides)
    study.check()
    profile = load_profile(cluster)
    profile.max_array = 1001  # not that of a Slurm which happens to be here
    study.wanted = [n for n in study.wanted if n in only or not only]
    write_scripts(study, RUNS, profile, into)
    for path in into.iterdir():
        if path.suffix == ".yaml":  # the job files change with the study, the scripts do not
            path.unlink()
            continue
        bin = str(Path(sys.executable).parent)  # this machine's alone
        path.write_text(path.read_text().replace(bin, "/path/to/hpcinv/bin"))


WRITTEN = {
    "study": (
        "generic",
        ["reanalysis.resources.array={over: members, tasks: 4, throttle: 2}"],
        [],
    ),
    "on-gpus": (
        "leonardo",
        [
            f"train-diffusion.resources={GPUS}",
            f"reanalysis.resources={GPUS}",
            "train-diffusion.resources.nodes=4",
            "train-diffusion.training.batch=64",
            "reanalysis.resources.nodes=2",
        ],
        ["train-diffusion", "reanalysis"],
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_examples_are_what_plan_writes(name, tmp_path):
    write(tmp_path, *WRITTEN[name])
    kept = EXAMPLES / name
    if os.environ.get("HPCINV_RENEW"):  # after a change of the template
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        for path in tmp_path.iterdir():
            shutil.copyfile(path, kept / path.name)
    mine, theirs = ({p.name: p.read_text() for p in d.iterdir()} for d in (tmp_path, kept))
    assert mine == theirs, "to renew them: HPCINV_RENEW=1 pytest tests/test_slurm_examples.py"
    for path in kept.glob("*.s*"):
        subprocess.run(["bash", "-n", path], check=True)
