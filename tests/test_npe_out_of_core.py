"""A posterior is trained on a store that its memory limit would not hold."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

STORE, LIMIT = 1536, 1100  # MiB: of the store, and of what the process may hold of its own
CODE = """
import resource, sys
import numpy as np
from hpcinv.io.rows import PartWriter, Rows, join
from hpcinv.parallel import connect
from hpcinv.training import train
from hpcinv.training.config import TrainConfig
from hpcinv.training.posterior import PosteriorLearner
from hpcinv.training.simulations import SimulationDataset

folder, width, n = sys.argv[1], 8192, {store} * 32
writer = PartWriter(folder + "/parts", 0, n, {{"theta": ((1,), "f4"), "x": ((width,), "f4"),
                                              "ok": ((), "u1")}})
rng = np.random.default_rng(0)
noise = rng.standard_normal((1024, width)).astype("f4")
for _ in range(0, n, 1024):
    theta = rng.uniform(-1, 1, (1024, 1)).astype("f4")
    writer.write(theta=theta, x=theta + noise, ok=np.ones(1024))
writer.close()
join(folder, [folder + "/parts"], n, {{}})
world = connect("torch")
limit = {limit} << 20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
data = SimulationDataset(Rows(folder), memory=128 << 20)
model = {{"name": "posterior", "parameters": [{{"name": "a"}}], "shape": [width], "width": 8,
         "embedding": {{"name": "mlp", "features": 4, "width": 4, "depth": 1}}}}
print("training", flush=True)
epoch = n // 256
config = TrainConfig(steps=2 * epoch, batch=256, seed=0, checkpoint_every=10 * epoch)
found = train(PosteriorLearner(model, seed=0), data, config, world=world, folder=folder)
print("steps", found["steps"], flush=True)
"""


def own(pid: int) -> int:
    """Resident MiB of a process's own: files that the system keeps in memory are not its."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (found,) = (line for line in lines if line.startswith("RssAnon"))
    return int(found.split()[1]) >> 10


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells a process's memory")
def test_training_on_a_store_larger_than_its_memory_is_flat(tmp_path):
    with (tmp_path / "errors").open("w") as errors:
        p = subprocess.Popen(
            [sys.executable, "-c", CODE.format(store=STORE, limit=LIMIT), tmp_path],
            stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
        seen = []
        while "training" not in (line := p.stdout.readline()):
            assert line, (tmp_path / "errors").read_text()
        while p.poll() is None:
            try:
                seen.append(own(p.pid))
            except (FileNotFoundError, ValueError):  # it ended between
                break
            time.sleep(0.2)
        said = p.stdout.read()
    assert p.wait() == 0 and "steps 384" in said, (tmp_path / "errors").read_text()
    parts = sum(f.stat().st_size for f in (tmp_path / "parts").iterdir())
    assert parts > LIMIT << 20
    # The first third measures means and deviations, with arrays of its own.
    third = len(seen) // 3
    middle, end = max(seen[third : 2 * third]), max(seen[2 * third :])
    print(f"resident: at most {max(seen)} MiB, {middle} in the middle third, {end} in the last")
    assert max(seen) < LIMIT and end < middle + 64
