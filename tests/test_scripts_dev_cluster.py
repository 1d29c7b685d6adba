"""The dev cluster: starts, loses nodes, heals, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from conftest import ROOT

SCRIPT = str(ROOT / "scripts" / "dev-cluster")
PORTS = (0, 1, 2, 11, 12, 13, 14)


def free_ports() -> int:
    for base in range(28000 + os.getpid() % 100 * 20, 32000, 20):
        try:
            for offset in PORTS:
                with socket.socket() as s:
                    s.bind(("127.0.0.1", base + offset))
        except OSError:
            continue
        return base
    raise RuntimeError("no free ports")


@pytest.fixture
def own():
    """A state folder and ports of our own; whatever a test leaves running is stopped."""
    if os.geteuid() != 0 or shutil.which("munged", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("needs root and scripts/setup --cluster")
    folder = Path(tempfile.mkdtemp(prefix="hpcinv-"))
    folder.chmod(0o755)
    env = os.environ | {
        "HPCINV_DEV_CLUSTER": str(folder),
        "HPCINV_DEV_CLUSTER_PORT": str(free_ports()),
    }
    env.pop("SLURM_CONF", None)
    yield env
    subprocess.run([SCRIPT, "stop"], env=env, timeout=300, capture_output=True)
    shutil.rmtree(folder)


def call(env, *words: object, code: int = 0, timeout: float = 300) -> str:
    command = [SCRIPT, *map(str, words)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def processes(env) -> list[int]:
    mark = f"HPCINV_DEV_CLUSTER_DAEMON={env['HPCINV_DEV_CLUSTER']}:".encode()
    found = []
    for p in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in p.read_bytes():
                found.append(int(p.parent.name))
        except OSError:
            continue
    return found


def srun(env, *words: str) -> str:
    conf = f"{env['HPCINV_DEV_CLUSTER']}/etc/slurm.conf"
    done = subprocess.run(
        ["srun", "-t1", *words],
        env=env | {"SLURM_CONF": conf},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def listening(env) -> dict[int, str]:
    """Addresses, as the kernel prints them, of the cluster's listening ports."""
    base = int(env["HPCINV_DEV_CLUSTER_PORT"])
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, port = local.split(":")
            if state == "0A" and int(port, 16) - base in PORTS:
                found[int(port, 16) - base] = address
    return found


@pytest.mark.slurm
def test_a_life(own):
    assert "stopped" in call(own, "status", code=3)
    said = call(own, "start")
    assert f"export SLURM_CONF={own['HPCINV_DEV_CLUSTER']}/etc/slurm.conf" in said
    assert "already up" in call(own, "start")
    assert "without accounting" not in call(own, "start", "--no-accounting", code=1)
    assert listening(own) == dict.fromkeys(PORTS, "0100007F")  # 127.0.0.1 and nothing else

    password = Path(own["HPCINV_DEV_CLUSTER"]) / "etc" / "password"
    assert password.stat().st_mode & 0o777 == 0o600 and len(password.read_text()) == 48

    names = srun(own, "-N4", "hostname").split()
    assert sorted(names) == ["node1", "node2", "node3", "node4"]

    assert "lost power" in call(own, "kill-node", 3)
    assert "node3        down" in call(own, "status", code=1)
    call(own, "start-node", 3)
    assert srun(own, "-wnode3", "hostname").strip() == "node3"
    call(own, "status")

    call(own, "stop")
    assert processes(own) == []
    assert own["HPCINV_DEV_CLUSTER"] not in Path("/proc/mounts").read_text()
    assert "not running" in call(own, "stop")
    call(own, "status", code=3)


@pytest.mark.slurm
def test_heals_and_stops_from_any_state(own):
    call(own, "start", "--no-accounting")
    table = call(own, "status").splitlines()
    pids = {w[0]: int(w[2]) for w in map(str.split, table) if len(w) == 3 and w[1] == "up"}
    assert sorted(pids) == ["munged", "node1", "node2", "node3", "node4", "slurmctld"]
    for name in ("munged", "slurmctld", "node2"):  # as after a crash
        os.kill(pids[name], signal.SIGKILL)
    time.sleep(0.2)
    call(own, "status", code=1)
    call(own, "start", "--no-accounting")
    assert srun(own, "-wnode2", "hostname").strip() == "node2"
    call(own, "stop")
    assert processes(own) == []

    for wait in (0.15, 0.4):  # a start that is itself killed
        starting = subprocess.Popen(
            [SCRIPT, "start"], env=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(wait)
        starting.kill()
        starting.wait()
        call(own, "stop")
        assert processes(own) == []
    call(own, "start")
    call(own, "status")


@pytest.mark.slurm
def test_one_clear_message(own, tmp_path):
    long = {"HPCINV_DEV_CLUSTER": str(tmp_path / ("x" * 60))}
    assert "too long for Unix sockets" in call(own | long, "start", code=2)
    with socket.socket() as s:
        s.bind(("127.0.0.1", int(own["HPCINV_DEV_CLUSTER_PORT"]) + 12))
        s.listen()
        said = call(own, "start", code=2)
    assert "is taken" in said and "export HPCINV_DEV_CLUSTER_PORT=" in said
    assert processes(own) == []
    assert "not running" in call(own, "kill-node", 1, code=3)
    assert "1 to 4" in call(own, "kill-node", 9, code=2)
    assert "unknown option" in call(own, "start", "--fast", code=2)
    assert "usage" in call(own, "frobnicate", code=2)


MPI = """
import os, sys
import numpy as np
from hpcinv.io.analysis import AnalysisWriter, join, open_analysis
from hpcinv.parallel import connect

world = connect("mpi")
nodes = world.all_gather([os.environ["SLURMD_NODENAME"], os.environ.get("CUDA_VISIBLE_DEVICES")])
x = np.random.default_rng(0).normal(size=(6, 1, 5, 8)).astype("f4")
writer = AnalysisWriter(
    sys.argv[1], members=[0], world=world, channels=["T"], units=["K"], time=np.arange(6),
    time_units="days since 2000-01-01", coords={"lat": np.arange(5), "lon": np.arange(8)},
)
first, last = world.share(0, 6)
writer.write(0, first, x[first:last])
writer.close()
if world.rank == 0:
    assert np.array_equal(open_analysis(sys.argv[1]).read(0), x)
    print(world.size, world.comm.allreduce(1) if world.size == 1 else "", sorted(nodes))
"""


@pytest.mark.slurm
@pytest.mark.mpi
def test_ranks_of_two_nodes_write_one_file(cluster, tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(MPI)
    command = ["srun", "--mpi=pmix", "-N2", "-n4", "-t2", "--gpus-per-node=2", sys.executable]
    done = subprocess.run(
        [*command, str(script), str(tmp_path / "a")],
        env=cluster,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("4 ")
    assert done.stdout.count("node") == 4 and done.stdout.count("'0,1'") == 4
    assert len({w for w in done.stdout.split("'") if w.startswith("node")}) == 2


@pytest.mark.slurm
def test_accounting_remembers(cluster, tmp_path):
    sbatch = ["sbatch", "--parsable", "--wait", "-t1", "-o", str(tmp_path / "out")]
    done = subprocess.run(
        [*sbatch, "--wrap", "exit 7"], env=cluster, capture_output=True, text=True, timeout=300
    )
    job = done.stdout.strip()
    for _ in range(500):
        sacct = subprocess.run(
            ["sacct", "-X", "-n", "-P", "-j", job, "-o", "State,ExitCode"],
            env=cluster,
            capture_output=True,
            text=True,
            timeout=30,
        )
        if sacct.stdout.strip() == "FAILED|7:0":
            break
        time.sleep(0.2)
    assert sacct.stdout.strip() == "FAILED|7:0", sacct.stderr


@pytest.mark.slurm
@pytest.mark.slow
def test_partition_high_preempts_main(own, tmp_path):
    call(own, "start")
    env = own | {"SLURM_CONF": f"{own['HPCINV_DEV_CLUSTER']}/etc/slurm.conf"}
    log = tmp_path / "low"
    sbatch = ["sbatch", "--parsable", "-N4", "--ntasks-per-node=4", "--mem-per-cpu=10", "-t5"]
    subprocess.run(
        [*sbatch, "--open-mode=append", "-o", str(log), "--signal=B:USR1@5", "--wrap",
         "trap 'echo asked' USR1 TERM; echo begun; for i in $(seq 300); do sleep 1; done"],
        env=env, check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    until = time.monotonic() + 300
    while not (log.exists() and "begun" in log.read_text()):
        assert time.monotonic() < until
        time.sleep(0.2)
    assert srun(env, "-phigh", "-N4", "-n4", "--exclusive", "hostname").count("node") == 4
    until = time.monotonic() + 300
    while log.read_text().count("begun") < 2:  # requeued and started again
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.2)
    assert "asked" in log.read_text()
