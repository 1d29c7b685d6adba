"""Failures provoked on a real Slurm, each by real means; `why` must name the cause."""

import json
import subprocess
import sys
import time

import pytest
from tiny_study import make

pytestmark = pytest.mark.slurm

# What happens inside the job of that name, in place of its work.
INSIDE = {
    "traceback": "raise ZeroDivisionError('a mistake of the first rank')",
    "host-memory": "import numpy; numpy.ones(1 << 50)",
    "module": "import hpcinv_has_no_such_module",
    "library": "import ctypes; ctypes.CDLL('libhpcinv-nowhere.so.1')",
    "segfault": "import ctypes; ctypes.string_at(0)",
    "killed": "import os; os.kill(os.getpid(), 9)",
    "disk": "f = open('/dev/full', 'wb', 0); f.write(b'x')",
    "quota": "import errno, os; raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), 'part.h5')",
    "truncated": "import h5py; p = ctx.folder / 'x.h5'; p.write_bytes(b'HDF'); h5py.File(p)",
    "digest": "from hpcinv.errors import BadInput as B; raise B('a.h5 does not match its digest')",
    "mpi-abort": "ctx.world.rank == 1 and ctx.world.comm.Abort(3); import time; time.sleep(60)",
    "second-rank": "import time\nif ctx.world.rank == 0: time.sleep(60)\nraise KeyError('second')",
    "gloo": (
        "import datetime, torch.distributed as d\n"
        "d.TCPStore('127.0.0.1', 0, 2, True, datetime.timedelta(seconds=2))"
    ),
    "time-limit": "import time; time.sleep(300)",
    "cancelled": "import time; time.sleep(300)",
    "no-progress": "from hpcinv.errors import Stopped; raise Stopped('asked to')",
    "held": "import time; time.sleep(300)",
}  # fmt: skip
CAUSES = {
    "traceback": "Python error",
    "host-memory": "memory of the host",
    "module": "missing module or library",
    "library": "missing module or library",
    "segfault": "crash",
    "killed": "killed",
    "disk": "disk",
    "quota": "disk",
    "truncated": "corrupted input",
    "digest": "corrupted input",
    "mpi-abort": "MPI abort",
    "second-rank": "Python error",
    "gloo": "timeout of NCCL or gloo",
    "time-limit": "time limit",
    "cancelled": "cancelled",
    "no-progress": "no progress",
    "held": "requeue hold",
    "nan": "bad input",
    "waits": "unmet dependency",
    "tool": "missing module or library",
    "partition": "partition",
    "limits": "limits",
    "refused": "refused",
}
RANKS = {"mpi-abort": 2, "second-rank": 2}


@pytest.fixture
def study(tmp_path):
    folder = make(tmp_path / "fail")
    text = "kind: import\nsource: {path: field.nc}\nvariables: {t: {units: K}}\n"
    for old in folder.glob("*.yaml"):
        old.unlink()
    odd = tmp_path / "odd"
    odd.mkdir()
    for name in ("partition", "limits", "refused", "tool"):
        more = "resources: {mem_per_task: 900GB}\n" if name == "limits" else ""
        (odd / f"{name}.yaml").write_text(text.replace("field", "../fail/field") + more)
    for name in [*INSIDE, "nan"]:
        ranks = RANKS.get(name, 1)
        more = f"resources: {{time: 10m, mem_per_task: 200MB, tasks_per_node: {ranks}}}\n"
        (folder / f"{name}.yaml").write_text(text + more)
    (folder / "time-limit.yaml").write_text(text + "resources: {time: 1s, mem_per_task: 200MB}\n")
    (folder / "waits.yaml").write_text(
        "kind: observe\ndata: traceback\nframes: [0, 3]\n"
        "observing: {network: random_points, points: 5, error: 0.1}\n"
        "resources: {mem_per_task: 200MB}\n"
    )
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        f"INSIDE = {INSIDE!r}\n"
        "name = os.environ.get('SLURM_JOB_NAME', '').partition('/')[2]\n"
        "if name in INSIDE and 'SLURM_PROCID' in os.environ:\n"
        "    import hpcinv.kinds.import_ as m\n"
        "    def run(self, ctx):\n"
        "        exec(INSIDE[name], {'ctx': ctx})\n"
        "    m.Import.run = run\n"
    )
    return folder


@pytest.mark.slow
def test_provoked_failures_are_named(cluster, study, tmp_path):
    import netCDF4
    import numpy as np

    runs = tmp_path / "runs"
    env = cluster | {"PYTHONPATH": f"{tmp_path}:{cluster['PYTHONPATH']}"}

    def hpcinv(*args, code=0):
        done = subprocess.run(
            [sys.executable, "-m", "hpcinv", *map(str, args), "--runs", str(runs)],
            capture_output=True, text=True, env=env, timeout=900,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def slurm(*args):
        return subprocess.run(args, env=env, capture_output=True, text=True, check=True).stdout

    def job_of(name):
        return json.loads((runs / "fail" / name / "submission.json").read_text())["slurm_job"]

    # Refused at submission: a partition that went away, more memory than a node has, a reservation
    # that nobody made.
    sites = {
        "partition": "partition: nowhere\n",
        "limits": "mpi: pmix\n",
        "refused": "sbatch: {reservation: nobody}\n",
    }
    for name, profile in sites.items():
        (tmp_path / f"{name}.site.yaml").write_text(profile)
    import hpcinv.launch.submit as submitting
    from hpcinv.errors import BadInput
    from hpcinv.kinds.study import load
    from hpcinv.launch.profile import load_profile

    with pytest.MonkeyPatch.context() as patch:
        for key, value in env.items():
            patch.setenv(key, value)
        patch.setattr(submitting, "check_partition", lambda *a: None)
        for name in sites:
            profile = load_profile(str(tmp_path / f"{name}.site.yaml"))
            with pytest.raises(BadInput, match="Slurm refused"):
                submitting.submit_study(load(tmp_path / f"odd/{name}.yaml"), runs, profile)
    with netCDF4.Dataset(study / "field.nc", "a") as f:
        f["t"][3, 0, 0] = np.nan
    hpcinv("submit", study)
    # A site whose setup asks for a program that is not there.
    (tmp_path / "lost.yaml").write_text(
        "partition: main\nsetup: [hpcinv-no-such-tool || exit 1]\n"
    )
    hpcinv("submit", tmp_path / "odd" / "tool.yaml", "--cluster", tmp_path / "lost.yaml")
    for name, act in (
        ("cancelled", ["scancel"]),
        ("held", ["scontrol", "requeuehold"]),
    ):
        until = time.monotonic() + 300
        while "RUNNING" not in slurm("squeue", "-h", "-o", "%T", "-j", job_of(name)):
            assert time.monotonic() < until
            time.sleep(0.3)
        slurm(*act, job_of(name))
    ids = [job_of(n) for n in INSIDE if n != "held"]
    until = time.monotonic() + 600
    while left := slurm("squeue", "--me", "-h", "-o", "%A|%j|%T|%r").splitlines():
        left = [x for x in left if x.split("|")[0] in ids]
        if not left:
            break
        assert time.monotonic() < until, left
        time.sleep(1)
    found = {x["job"].split("/")[1]: x for x in json.loads(hpcinv("why", "--json"))}
    slurm("scancel", job_of("held"))
    wrong = {n: (found[n]["cause"], c, found[n]["line"]) for n, c in CAUSES.items()
             if found[n]["cause"] != c}  # fmt: skip
    assert not wrong
    assert found["second-rank"]["rank"] == 1 and "second" in found["second-rank"]["line"]
    assert "hpcinv why fail/traceback" in found["waits"]["do"]
