r"""What a training will cost: sizes of the presets, operations by hand, curves of TensorBoard."""

import json

import numpy as np
import pytest
import torch
from training_toys import MODEL, StopAfter, Windows, run

from hpcinv.errors import BadInput, Stopped
from hpcinv.kinds.study import load
from hpcinv.launch.estimate import Estimate, estimates, refuse_what_cannot_fit
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


def test_presets_are_as_large_as_they_say():
    globe = {"channels": 71, "grid": (721, 1440)}
    n, module = _parameters(AutoencoderConfig(preset="appa-500m", context=4), **globe)
    assert n == pytest.approx(500e6, rel=0.05)
    assert 71 * 721 * 1440 / np.prod(module.latent_shape) >= 450
    assert module.latent_shape == (32, 46, 90)
    n, _ = _parameters(AutoencoderConfig(preset="base", context=4), **globe)
    assert n == pytest.approx(127e6, rel=0.05)
    latent = {"channels": 32, "grid": (46, 90)}
    n, _ = _parameters(TrajectoryDenoiserConfig(preset="appa-1b", context=4), **latent)
    assert n == pytest.approx(1e9, rel=0.05)


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
