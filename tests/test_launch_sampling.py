r"""What the planner says of an analysis, against what the engine does."""

import netCDF4
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hpcinv import assimilation
from hpcinv.kinds.study import load
from hpcinv.launch.estimate import estimates
from hpcinv.launch.sampling import samplings

STUDY = {
    "1_states.yaml": "kind: import\nsource: {path: states.nc}\n"
    "variables: {u: {}, v: {}}\ntime: [2000-01-01, 2000-12-31]\n"
    "statistics: {frames: [0, 20], phase: none}\n",
    "2_seen.yaml": "kind: observe\ndata: states\nframes: [20, 30]\nobserving: {network: "
    "random_points, points: 9, channels: [u], error: 0.5}\n",
    "3_prior.yaml": "kind: train\ndata: states\nwindow: 5\nmodel: {name: trajectory_denoiser, "
    "width: 16, depth: 1, context: 0}\ntraining: {steps: 1, batch: 1}\n",
    "4_analysis.yaml": "kind: assimilate\ndata: states\nframes: [20, 30]\nobservations: seen\n"
    "prior: prior\nmembers: 3\nwindow: 5\noverlap: 2\ncompose: center\nbatch: 3\n"
    "guidance: {iterations: 2}\nsampler: {method: heun, steps: 2}\n",
}


COARSE = "coarse: {step: 3, window: 3}\n"


@pytest.fixture(params=["", "compose: junction\n", COARSE, "guidance: {covariance: isotropic}\n"])
def found(request, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, text in STUDY.items():
        if request.param == COARSE:
            text = text.replace("window: 5\nmodel", "window: 5\ntime_steps: [1, 3]\nmodel")
        if name == "4_analysis.yaml" and request.param:
            key = request.param.split(":")[0]
            kept = [line for line in text.splitlines(True) if not line.startswith(f"{key}:")]
            text = "".join(kept) + request.param
        (tmp_path / name).write_text(text)
    with netCDF4.Dataset(tmp_path / "states.nc", "w") as f:
        for name, size in (("time", 2), ("lat", 16), ("lon", 32)):
            f.createDimension(name, size)
        for name in "uv":
            f.createVariable(name, "f4", ("time", "lat", "lon"))[:] = 0
    study = load(tmp_path)
    study.check()
    runs = tmp_path / "runs"
    return samplings(study, runs, estimates(study, runs)[0])


def test_operations_are_those_of_the_engine(found):
    from hpcinv.models.trajectory_denoiser import TrajectoryDenoiser

    (plan,) = found
    assert plan.windows == 3 and plan.numbers == 3 * 10 * 2 * 16 * 32
    assert plan.sent == 2 * 4 * 3 * 2 * 2 * 16 * 32  # there and back, of all members, an overlap
    job = plan.job
    timed = job.coarse is not None
    denoiser = TrajectoryDenoiser(2, (16, 32), width=16, depth=1, context=0, timed=timed)
    denoiser = denoiser.eval().requires_grad_(False)

    class Table:  # every frame is seen, as the plan supposes
        frame = point = np.arange(10)
        channel, value, error = np.zeros(10, int), np.zeros(10), np.full(10, 0.5)

    d = assimilation.sample(
        denoiser, shape=(2, 16, 32), length=10, window=5, overlap=2, members=range(3), batch=3,
        likelihood=assimilation.PointLikelihood(Table, shape=(2, 16, 32), length=10),
        guidance=job.guidance, sampler=job.sampler, compose=job.compose,
        coarse=job.coarse and assimilation.Coarse(**job.coarse.model_dump()),
    ).diagnostics  # fmt: skip
    x = torch.zeros(1, 5, 2, 16, 32, requires_grad=True) + 0  # no leaf, which cannot be counted
    with FlopCounterMode(display=False) as forward:
        mean = denoiser(x, torch.tensor(0.5)).mean
    with FlopCounterMode(display=False) as product:
        torch.autograd.grad(mean, x, torch.ones_like(mean))
    evaluated = 3 * 10 * d["evaluations_per_frame"]  # frames, of all members and calls
    assert evaluated == pytest.approx(3 * job.sampler.calls * plan.frames)
    asked = job.guidance.iterations if d["network_products"] else 0
    assert (asked == 0) == (job.guidance.covariance == "isotropic")
    done = evaluated * (forward.get_total_flops() + asked * product.get_total_flops()) / 5
    assert abs(plan.operations / done - 1) < 0.1, (plan.operations, done)
    if job.compose == "center" and job.coarse is None and asked:  # rows of nine windows of five
        rows = d["network_pairs"] // d["network_calls"]
        assert rows == 9
        exact = d["network_pairs"] * forward.get_total_flops()
        exact += d["network_products"] * rows * product.get_total_flops()
        assert done == pytest.approx(exact, rel=1e-6)


def test_what_a_rank_cannot_hold_is_told(found):
    from rich.console import Console

    from hpcinv.launch.profile import Profile
    from hpcinv.launch.sampling import sampling_table

    (s,) = found

    def told(gpus, memory):
        s.job.resources.gpus_per_task, s.job.resources.mem_per_task = gpus, memory
        profile = Profile(name="x", gpu="A100" if gpus else None)
        console = Console(width=200)
        with console.capture() as out:
            console.print(sampling_table(found, profile))
        return out.get()

    assert "fits" in told(0, s.held) and "To fit" not in told(0, s.held)
    less = told(0, s.held - 1)
    assert "more than the memory asked for" in less and "To fit: more ranks" in less
    assert "fits" in told(1, 1)  # it is the GPU's memory that counts
