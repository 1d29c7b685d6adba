r"""The loop on one rank: exact resume, whole checkpoints, averages, plain errors."""

import json
import subprocess
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from training_toys import StopAfter, Windows, config, run, weights

from hpcinv.errors import BadInput, Stopped
from hpcinv.models import load
from hpcinv.training.checkpoints import DiskFull
from hpcinv.training.engine import Average
from hpcinv.training.loop import Diverged


def _lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


FAST = [(0, "fp32"), (0, "bf16"), (1, "bf16"), (2, "fp32"), (3, "fp32")]
REST = [(1, "fp32"), (2, "bf16"), (3, "bf16")]


@pytest.mark.parametrize(
    ("zero", "precision"), [*FAST, *(pytest.param(*r, marks=pytest.mark.slow) for r in REST)]
)
def test_interrupted_and_straight_runs_end_in_the_same_bits(tmp_path, world, zero, precision):
    fields = {"zero": zero, "precision": precision}
    run(tmp_path / "straight", world, **fields)
    for steps in (3, 2):
        with pytest.raises(Stopped):
            run(tmp_path / "cut", world, stop=StopAfter(steps), **fields)
    run(tmp_path / "cut", world, **fields)
    assert weights(tmp_path / "cut") == weights(tmp_path / "straight")
    straight, cut = _lines(tmp_path / "straight"), _lines(tmp_path / "cut")
    assert [(a["step"], a["loss"]) for a in straight] == [(a["step"], a["loss"]) for a in cut]


def test_stages_and_accumulation_agree(tmp_path, world):
    run(tmp_path / "0", world)
    plain = load(tmp_path / "0").state_dict()
    for name, fields in {"3": {"zero": 3}, "2": {"zero": 2}, "a": {"accumulation": 2}}.items():
        run(tmp_path / name, world, **fields)
        for key, value in load(tmp_path / name).state_dict().items():
            torch.testing.assert_close(value, plain[key], atol=1e-6, rtol=1e-5)


def test_a_damaged_checkpoint_is_passed_over(tmp_path, world):
    run(tmp_path / "straight", world, keep=5)
    with pytest.raises(Stopped):
        run(tmp_path / "cut", world, keep=5, stop=StopAfter(5))
    folder = tmp_path / "cut" / "checkpoints"
    assert (folder / "latest").read_text().strip() == "step-5-a1"
    state = folder / "step-5-a1" / "mp_rank_00_model_states.pt"
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(bytes(data))
    (folder / "step-4-a1" / "average.safetensors").write_bytes(b"torn")
    (folder / "step-9-a1").mkdir()  # a save that was killed
    with pytest.warns(RuntimeWarning) as told:
        run(tmp_path / "cut", world, keep=5)
    text = [str(w.message) for w in told]
    assert any("step-5-a1" in t and "digest" in t for t in text)
    assert any("step-4-a1" in t and "torn" in t for t in text)
    assert weights(tmp_path / "cut") == weights(tmp_path / "straight")
    assert _lines(tmp_path / "cut")[-1]["step"] == 7


def test_tags_are_not_used_twice_and_old_ones_go(tmp_path, world):
    with pytest.raises(Stopped):
        run(tmp_path, world, stop=StopAfter(3))
    folder = tmp_path / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["latest", "step-2-a1", "step-3-a1"]
    (folder / "step-4-a2").mkdir()  # left by an attempt that died in its save
    run(tmp_path, world)
    kept = sorted(p.name for p in folder.iterdir())
    assert kept == ["latest", "step-6-a3", "step-7-a3"]
    assert (folder / "latest").read_text() == "step-7-a3\n"


def test_the_best_checkpoint_is_kept_besides_the_last(tmp_path, world, monkeypatch):
    told = iter([3.0, 1.0, float("nan"), 2.0, 4.0, 1.5])  # after steps 2, 4, ... 12
    monkeypatch.setattr("hpcinv.training.loop._validate", lambda *_: next(told))
    fields = {"steps": 13, "validate_every": 2, "validation": Windows()}
    with pytest.raises(Stopped):
        run(tmp_path, world, stop=StopAfter(7), **fields)
    folder = tmp_path / "checkpoints"

    def kept():
        return sorted(int(p.name.split("-")[1]) for p in folder.glob("step-*"))

    assert kept() == [4, 6, 7]
    # A checkpoint is resumed from as before: the newest, not the best.
    run(tmp_path, world, **fields)
    assert kept() == [4, 12, 13]
    assert (folder / "latest").read_text().startswith("step-13-")
    assert json.loads((folder / "step-4-a1" / "manifest.json").read_text())["validation"] == 1.0
    assert [a["step"] for a in _lines(tmp_path) if "loss" in a] == list(range(1, 14))


def test_a_finished_training_is_only_exported_again(tmp_path, world):
    run(tmp_path, world)
    first = weights(tmp_path)
    (tmp_path / "weights.safetensors").unlink()
    run(tmp_path, world)
    assert weights(tmp_path) == first
    assert [a["step"] for a in _lines(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]


def test_average_against_its_closed_form():
    module = torch.nn.Linear(3, 1, bias=False)
    path = torch.randn(6, 1, 3, generator=torch.Generator().manual_seed(0))
    module.weight.data.copy_(path[0])
    average = Average(SimpleNamespace(module=module, optimizer=object()))
    d = 0.7
    for row in path[1:]:
        module.weight.data.copy_(row)
        average.update(d)
    closed = d**5 * path[0] + sum((1 - d) * d ** (5 - i) * path[i] for i in range(1, 6))
    torch.testing.assert_close(average.shards[0], closed)


def test_decay_and_rate_by_step():
    c = config(steps=100, warmup=10, learning_rate=1.0, ema=0.9)
    assert c.decay(0) == pytest.approx(1 / 11) and c.decay(1000) == 0.9
    assert c.rate(0) == pytest.approx(0.1) and c.rate(50) == pytest.approx(0.5)


def test_a_loss_that_is_not_finite_names_step_and_samples(tmp_path, world):
    class Poisoned(Windows):
        def sample(self, epoch, number):
            sample = super().sample(epoch, number)
            if (epoch, number) == (1, 8):
                sample["x"][0, 0, 0, 0] = np.nan
            return sample

    with pytest.raises(Diverged, match=r"\(1, 8\)") as told:
        run(tmp_path, world, dataset=Poisoned())
    assert any(f"step {s}" in str(told.value) for s in (3, 4, 5))  # the second epoch of three


def test_bad_input(tmp_path, world):
    with pytest.raises(BadInput, match="torch backend"):
        from hpcinv.parallel import World

        run(tmp_path / "w", World())
    run(tmp_path / "run", world)
    with pytest.raises(BadInput, match="another model or other fields"):
        run(tmp_path / "run", world, learning_rate=2e-2)
    with pytest.raises(BadInput, match="another model or other fields"):
        run(tmp_path / "run", world, model={"width": 24})
    with pytest.raises(ValueError, match="does not divide"):
        config(batch=5, accumulation=2)


def test_validation_is_of_the_averaged_weights(tmp_path, world):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        figures = run(tmp_path, world, validation=Windows(), validate_every=7)
    rows = [r for r in _lines(tmp_path) if "validation" in r or "averaged_validation" in r]
    assert figures["validation"] == rows[-1]["averaged_validation"]
    assert 0.2 < rows[0]["validation"] < 2 and rows[0]["validation"] != figures["validation"]


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path, world):
    """A real one: a tmpfs that holds two checkpoints and not a third."""
    small = tmp_path / "small"
    small.mkdir()
    run(tmp_path / "straight", world)
    each = sum(p.stat().st_size for p in (tmp_path / "straight/checkpoints/step-6-a1").iterdir())
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={int(3.2 * each)}", "tmpfs", small],
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("a small file system needs root")
    try:
        filler = small / "filler"
        filler.write_bytes(bytes(int(0.5 * each)))
        with pytest.raises(DiskFull, match=r"step-6-a1 was not written.*step-4-a1 is whole"):
            run(small, world)
        assert (small / "checkpoints/latest").read_text() == "step-4-a1\n"
        assert not (small / "checkpoints/step-6-a1").exists()  # it makes room, not more of a mess
        filler.unlink()
        run(small, world)
        assert weights(small) == weights(tmp_path / "straight")
    finally:
        subprocess.run(["umount", small], check=True)


def test_the_best_weights_are_those_of_the_best_finite_validation(tmp_path, world, monkeypatch):
    from hpcinv.training import best

    told = iter([float("nan"), 3.0, 2.0, 2.5])
    real = best.Best.consider
    monkeypatch.setattr(best, "_mean", lambda *_: next(told, 9.0))
    seen = []

    def consider(self, step):
        value = real(self, step)
        seen.append((step, self.state["step"], bool(self.kept)))
        return value

    monkeypatch.setattr(best.Best, "consider", consider)
    figures = run(
        tmp_path, world, validation=Windows(), steps=4, validate_every=1, patience=9,
        validation_samples=2,
    )  # fmt: skip
    assert seen == [(1, 0, False), (2, 2, True), (3, 3, True), (4, 3, True)]
    assert figures["best_step"] == 3


@pytest.mark.slow
def test_a_compiled_loss_learns_the_same_and_resumes_to_the_bit(tmp_path, world):
    from safetensors.torch import load_file
    from torch._dynamo.utils import counters

    run(tmp_path / "eager", world)
    counters.clear()
    run(tmp_path / "whole", world, compile=True)
    assert counters["stats"]["unique_graphs"] > 0  # it was compiled
    with pytest.raises(Stopped):
        run(tmp_path / "cut", world, stop=StopAfter(3), compile=True)
    run(tmp_path / "cut", world, compile=True)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    eager, whole = (load_file(tmp_path / n / "weights.safetensors") for n in ("eager", "whole"))
    for name, value in eager.items():
        torch.testing.assert_close(whole[name], value, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="whole weights"):
        run(tmp_path / "three", world, compile=True, zero=3)
