r"""What arrays cost the scheduler, and whoever waits for the command.

    eval "$(scripts/dev-cluster env)"; python scripts/benchmarks/arrays.py

Submits arrays of 10, 100 and 1,000 tasks (held by a throttle of one, and cancelled at once), asks
`status` for the largest, and plans 100,000. Counts how often Slurm's commands are called, through
wrappers put before them in PATH. The physical limit beside it: `sbatch` of an empty array of the
same size. It says nothing of a controller that other users keep busy.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import netCDF4
import numpy as np

MONTHS, LAT, LON = 36, 6, 8
COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "sinfo", "scancel")


def study(folder: Path) -> Path:
    r"""A made-up monthly field, and climatologies of it as an array over members."""
    folder.mkdir()
    with netCDF4.Dataset(folder / "field.nc", "w") as f:
        for name, n in (("time", MONTHS), ("lat", LAT), ("lon", LON)):
            f.createDimension(name, n)
        axes = {
            "time": ("days since 2000-01-15", np.arange(MONTHS) * 30.4375),
            "lat": ("degrees_north", np.linspace(-75, 75, LAT)),
            "lon": ("degrees_east", np.arange(LON) * 45.0),
        }
        for name, (units, values) in axes.items():
            v = f.createVariable(name, "f8", (name,))
            v.units = units
            v[:] = values
        v = f.createVariable("t", "f4", ("time", "lat", "lon"))
        v[:] = 280 + np.random.default_rng(0).standard_normal((MONTHS, LAT, LON))
    (folder / "1_import.yaml").write_text(
        "kind: import\nsource: {path: field.nc}\nvariables: {t: {units: K}}\n"
        "statistics: {frames: [0, 24], phase: month}\n"
    )
    (folder / "2_members.yaml").write_text(
        "kind: assimilate\nmethod: climatology\ndata: import\nframes: [24, 36]\n"
        "training: [0, 24]\nmembers: 100000\n"
        "resources: {array: {over: members, tasks: 10, throttle: 1}}\n"
    )
    return folder


def counted(folder: Path) -> tuple[dict[str, str], Path]:
    r"""An environment in which Slurm's commands leave a line in a file."""
    calls = folder / "calls"
    (folder / "bin").mkdir()
    for name in COMMANDS:
        real = shutil.which(name)
        if real is None:
            sys.exit(f'no {name} here: eval "$(scripts/dev-cluster env)"')
        script = folder / "bin" / name
        script.write_text(
            f'#!/bin/sh\necho {name} >> {shlex.quote(str(calls))}\nexec {shlex.quote(real)} "$@"\n'
        )
        script.chmod(0o755)
    return {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}, calls


def main() -> None:
    with tempfile.TemporaryDirectory(
        prefix="arrays-",
        dir=os.getcwd(),
        ignore_cleanup_errors=True,  # tasks may still end
    ) as temporary:
        folder = Path(temporary)
        env, calls = counted(folder)
        path = study(folder / "field")
        command = [sys.executable, "-m", "hpcinv"]

        def timed(*args: object) -> tuple[float, dict[str, int], str]:
            calls.write_text("")
            began = time.perf_counter()
            done = subprocess.run(
                [*command, *map(str, args)], env=env, capture_output=True, text=True, check=False
            )
            spent = time.perf_counter() - began
            if done.returncode:
                sys.exit(done.stdout + done.stderr)
            lines = calls.read_text().split()
            return spent, {n: lines.count(n) for n in COMMANDS if n in lines}, done.stdout

        for tasks in (10, 100, 1000):
            runs = folder / f"runs-{tasks}"
            timed("run", path / "1_import.yaml", "--runs", runs)
            job = [path / "2_members.yaml", f"resources.array.tasks={tasks}", "--runs", runs]
            spent, asked, _ = timed("submit", *job)
            bare = ["sbatch", "--parsable", f"--array=0-{tasks - 1}%1", "--hold", "--wrap=true"]
            began = time.perf_counter()
            id_ = subprocess.run(
                bare, capture_output=True, text=True, check=True, cwd=folder
            ).stdout
            alone = time.perf_counter() - began
            subprocess.run(["scancel", id_.strip()], check=True)
            print(f"submit {tasks:5} tasks: {spent:.2f} s, {asked}; a bare sbatch {alone:.3f} s")
            if tasks == 1000:
                # Every task has left its mark, as in the middle of a long array.
                (runs / "field/members/states").mkdir(exist_ok=True)
                for k in range(tasks - 1):
                    (runs / f"field/members/states/{k}.complete.1").touch()
                spent, asked, _ = timed("status", "--runs", runs)
                print(f"status {tasks:5} tasks, all but one with a mark made here: "
                      f"{spent:.2f} s, {asked}")  # fmt: skip
            timed("cancel", "field", "--runs", runs)
        out = folder / "scripts"
        spent, _, _ = timed(
            "plan", path, "members.resources.array.tasks=100000", "--runs", folder / "none",
            "--sbatch", out,
        )  # fmt: skip
        print(f"plan 100,000 tasks: {spent:.2f} s, {len(list(out.glob('*.sbatch')))} scripts")


if __name__ == "__main__":
    main()
