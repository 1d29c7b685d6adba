r"""What a training will cost: sizes of the presets, operations by hand, curves of TensorBoard."""

import json

import numpy as np
import pytest
import torch
from training_toys import MODEL, StopAfter, Windows, run

from hpcinv.errors import BadInput, Stopped
from hpcinv.kinds.study import load
from hpcinv.launch.estimate import Estimate, _advice, estimates, refuse_what_cannot_fit
from hpcinv.launch.profile import Profile
from hpcinv.models import build
from hpcinv.training import cost
from hpcinv.training.config import AutoencoderConfig, TrajectoryDenoiserConfig
from hpcinv.training.diffusion import DiffusionLearner
from hpcinv.training.learner import Learner


def _parameters(config, **shape):
    with torch.device("meta"):
        module = build({**config.build_fields(), **shape})
    return sum(p.numel() for p in module.parameters()), module


GLOBE, LATENT = {"channels": 71, "grid": (721, 1440)}, {"channels": 32, "grid": (46, 90)}
SIZES = [
    (AutoencoderConfig, "tiny", GLOBE, 2.7e6),
    (AutoencoderConfig, "small", GLOBE, 7.0e6),
    (AutoencoderConfig, "base", GLOBE, 123e6),
    (AutoencoderConfig, "appa-500m", GLOBE, 500e6),
    (TrajectoryDenoiserConfig, "tiny", LATENT, 0.27e6),
    (TrajectoryDenoiserConfig, "small", LATENT, 9.2e6),
    (TrajectoryDenoiserConfig, "base", LATENT, 49e6),
    (TrajectoryDenoiserConfig, "appa-1b", LATENT, 1e9),
]


@pytest.mark.parametrize(("config", "preset", "shape", "told"), SIZES)
def test_presets_are_as_large_as_they_say(config, preset, shape, told):
    n, module = _parameters(config(preset=preset, context=4), **shape)
    print(preset, n)
    assert n == pytest.approx(told, rel=0.05)
    assert all(p.is_meta for p in module.parameters())
    if preset == "appa-500m":
        assert 71 * 721 * 1440 / np.prod(module.latent_shape) >= 450
        assert module.latent_shape == (32, 46, 90)  # what appa-1b denoises


def test_a_field_beside_a_preset_wins():
    small = TrajectoryDenoiserConfig(preset="small", depth=2)
    assert (small.width, small.depth, small.heads) == (256, 2, 4)
    with pytest.raises(ValueError, match="preset"):
        TrajectoryDenoiserConfig(preset="appa-500m")


class TwoLayers(Learner):
    def __init__(self):
        layers = torch.nn.Sequential(
            torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4)
        )
        super().__init__(layers, {})

    def forward(self, batch):
        return self.module(batch["x"]).square().mean()


def test_cost_of_two_layers_by_hand():
    found = cost.trace(TwoLayers(), {"x": torch.zeros(10, 8)})
    assert found.parameters == 8 * 32 + 32 + 32 * 4 + 4
    assert found.flops == 3 * 2 * 10 * (8 * 32 + 32 * 4)
    # Kept: the input, what ReLU gave (once: two layers share it), and the output.
    assert found.activations == 4 * 10 * (8 + 32 + 4)


def test_attention_is_counted_without_its_matrix():
    heads = DiffusionLearner({**MODEL, "grid": (16, 16), "heads": 2})
    none = DiffusionLearner({**MODEL, "grid": (16, 16), "heads": 0})
    one = {"x": np.zeros((3, 2, 16, 16), np.float32), "context": np.zeros((3, 2), np.float32)}
    drawn = heads.draw(one, np.random.default_rng(0))
    a, b = cost.describe(heads, drawn, 1), cost.describe(none, drawn, 1)
    tokens, width = 3 * 256, 16
    projections = 3 * 2 * 2 * tokens * width * 4 * width
    matrices = 3 * 2 * 2 * tokens * width * (256 + 3)
    assert a.flops - b.flops == projections + matrices
    assert a.activations - b.activations < 4 * 3 * 2 * 256 * 256  # the matrix alone


def test_stages_divide_what_they_say():
    one = cost.Cost(parameters=100_000_000, flops=0, activations=0)
    plain = cost.memory(one, 0, "fp32", 8)
    assert plain["all"] == (4 + 4 + 8 + 4) * 100_000_000
    sharded = cost.memory(one, 3, "bf16", 8, ema=False)
    # Rajbhandari et al. (2020), figure 1: 16 bytes a parameter over all ranks.
    assert sharded["all"] - sharded["buffers"] == 16 * 100_000_000 // 8


def _study(tmp_path, **training):
    fields = {"steps": 1000, "batch": 8, "precision": "bf16", **training}
    (tmp_path / "1_states.yaml").write_text(
        "kind: import\nsource: {path: states.nc}\nvariables: {u: {}, v: {}}\n"
    )
    (tmp_path / "2_coder.yaml").write_text(
        json.dumps({
            "kind": "train", "data": "states", "training": fields,
            "model": {"name": "autoencoder", "preset": "small"},
            "resources": {"gpus_per_task": 1, "tasks_per_node": 4},
        })
    )  # fmt: skip
    import netCDF4

    with netCDF4.Dataset(tmp_path / "states.nc", "w") as f:
        for name, size in (("time", 2), ("lat", 33), ("lon", 64)):
            f.createDimension(name, size)
        for name in "uv":
            f.createVariable(name, "f4", ("time", "lat", "lon"))[:] = 0
    return load(tmp_path)


def test_plan_knows_a_training_before_its_data_are_imported(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    study = _study(tmp_path)
    study.check()
    (found,), unknown = estimates(study, tmp_path / "runs")
    assert unknown == []
    n, _ = _parameters(study.jobs["coder"].model, channels=2, grid=(33, 64))
    assert found.cost.parameters == n
    assert found.checkpoint == (6 + 8 + 4) * n
    # The second time nothing is traced.
    monkeypatch.setattr("subprocess.run", None)
    assert estimates(study, tmp_path / "runs")[0][0].cost == found.cost


def test_what_cannot_fit_a_gpu_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    study = _study(tmp_path)
    study.check()
    profile = Profile(name="toy", gpu="V100")
    refuse_what_cannot_fit(study, tmp_path / "runs", profile)
    large = cost.Cost(parameters=3 * 10**9, flops=10**12, activations=10**6)
    monkeypatch.setattr("hpcinv.launch.estimate._costs", lambda asked: {"coder": large})
    with pytest.raises(BadInput, match=r"2_coder.yaml.*'coder' needs .* GB on each GPU.*zero 1"):
        refuse_what_cannot_fit(study, tmp_path / "runs", profile)
    hours = Estimate("coder", study.jobs["coder"], large, 4).hours("A100")
    assert hours == pytest.approx(1000 * 8 * 1e12 / (0.35 * 312e12 * 4) / 3600)


def _estimate(parameters, zero=0, tasks=4, batch=8):
    from hpcinv.kinds.train import Train

    job = Train.model_validate(
        {"data": "states", "window": 1, "model": {"name": "autoencoder"},
         "training": {"steps": 1, "batch": batch, "zero": zero},
         "resources": {"tasks_per_node": tasks, "gpus_per_task": 1}}
    )  # fmt: skip
    return Estimate("coder", job, cost.Cost(parameters, 10**12, 4 * 10**9), tasks)


@pytest.mark.parametrize(
    ("parameters", "zero", "said"),
    [
        # fp32 on V100s of 34.4 GB, 90% of them to fill, 1.5 GB the framework's: 20 bytes a
        # parameter whole, 8 + 16 / 4 with stage 1, 24 / 4 with 3, 4 GB of activations a sample.
        (10**9, 0, "fits a V100"),
        (10**9, 3, "fits a V100; so does zero 0, accumulation 1"),
        (1.2 * 10**9, 0, "to fit a V100: zero 0, accumulation 2"),
        (2 * 10**9, 0, "to fit a V100: zero 1, accumulation 2"),
        (4 * 10**9, 1, "to fit a V100: zero 3, accumulation 2"),
        (6 * 10**9, 3, "does not fit a V100 with 4 ranks; 8 would do"),
        (60 * 10**9, 3, "does not fit a V100 with 4 ranks"),
    ],
)
def test_plan_proposes_the_smallest_stage_and_batch_that_fit(parameters, zero, said):
    assert _advice(_estimate(int(parameters), zero), Profile(name="toy", gpu="V100")) == said


def test_plan_knows_a_training_before_its_data_are_simulated(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "1_flows.yaml").write_text(
        "kind: simulate\nsimulator: lorenz96\noptions: {n: 24}\nsimulations: 2\n"
        "trajectory: {frames: 4}\n"
    )
    model = {"name": "trajectory_denoiser", "preset": "tiny", "context": 0}
    (tmp_path / "2_prior.yaml").write_text(
        json.dumps({"kind": "train", "data": "flows", "window": 2, "model": model,
                    "training": {"steps": 1, "batch": 1}})
    )  # fmt: skip
    study = load(tmp_path)
    study.check()
    (found,), unknown = estimates(study, tmp_path / "runs")
    assert unknown == []
    n, _ = _parameters(study.jobs["prior"].model, channels=1, grid=(24,))
    assert found.cost.parameters == n


def test_curves_of_an_interrupted_run_are_those_of_a_straight_one(tmp_path, world):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(Stopped):
        run(tmp_path, world, Windows(), stop=StopAfter(3))
    run(tmp_path, world, Windows())
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    curves = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    seen = {e.step: e.value for e in curves.Scalars("loss")}
    assert list(seen) == list(range(1, 8))
    for line in lines:
        assert seen[line["step"]] == pytest.approx(line["loss"], rel=1e-6)
        assert line["tflops"] > 0
        assert line["mfu"] is None  # a CPU's peak is nowhere stated
        assert line["memory"] > 1e8
