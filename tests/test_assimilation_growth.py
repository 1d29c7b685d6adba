r"""What a rank holds and sends is a matter of its own frames and overlaps, not of the length."""

import json
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "scripts" / "benchmarks"

RANKS = """
import json, sys
import torch
from azula.noise import VESchedule
from hpcinv import assimilation, parallel

torch.set_num_threads(1)
world = parallel.connect("mpi")
out = {}
for length in (12, 48):
    for rule in ("center", "junction"):
        lag = (torch.arange(6)[:, None] - torch.arange(6)).abs()
        denoiser = assimilation.StationaryGaussian(
            torch.zeros(6, 5), torch.einsum("ij,ab->iajb", 0.9**lag, torch.eye(5)),
            VESchedule(1e-2, 1e2))
        r = assimilation.sample(
            denoiser, shape=(5,), length=length, window=6, overlap=4, members=[0, 1, 2],
            compose=rule, sampler={"method": "ddpm", "steps": 3}, world=world, slabs=2)
        d = r.diagnostics
        out[f"{rule} {length}"] = world.all_gather(
            [d["bytes_sent"], d["exchanges"], d["frames_lent"]])
if world.rank == 0:
    print(json.dumps(out))
"""


@pytest.mark.mpi
def test_overlaps_alone_are_sent(mpirun):
    found = json.loads(mpirun(2, RANKS, timeout=120).splitlines()[-1])
    # Windows of 6 every 2: rank 0 ends at frame L/2 and evaluates windows up to L/2 + 2.
    lent = {"center": [2, 2], "junction": [2, 2]}
    # Members x numbers x bytes; what comes back: nothing of `center`, whose middles stay at home;
    # of `junction` the windows' and overlaps' frames on the other side.
    frame = 3 * 5 * 4
    for case, ranks in found.items():
        rule = case.split()[0]
        for (sent, times, there), expected in zip(ranks, lent[rule], strict=True):
            assert times == 4 and there == expected, case  # three steps and the last mean
            assert sent % (times * frame) == 0, case
            back = sent // (times * frame) - there
            assert back == 0 if rule == "center" else 0 < back <= 6, case
    for rule in lent:
        assert found[f"{rule} 12"] == found[f"{rule} 48"], "the length of the whole counts"


@pytest.mark.mpi
@pytest.mark.slow
def test_memory_is_that_of_own_frames(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    growth = __import__("growth")
    state = (8, 64, 64)
    rows = [(1, own, ranks * own) for ranks, own in ((1, 32), (1, 96), (2, 32), (2, 96))]
    peaks = [
        max(r[0] for r in growth.start(L // n, L, state, "center, per window", 1, 1)["ranks"])
        for _, n, L in rows
    ]
    _, b, c = np.linalg.lstsq(np.array(rows, float), np.array(peaks, float), rcond=None)[0]
    frame = 4 * np.prod(state)
    assert 5 < b / frame < 60, b / frame
    assert abs(c) < 0.1 * b, (b / frame, c / frame)
