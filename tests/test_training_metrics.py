r"""What the loop does and tells in a step, beside a plain PyTorch loop and a clock by hand."""

import json

import pytest
import torch
from training_toys import MODEL, Windows, config, run

from hpcinv.models import load
from hpcinv.training.best import tensors
from hpcinv.training.data import Order
from hpcinv.training.diffusion import DiffusionLearner
from hpcinv.training.metrics import Clock


def _plain(c):
    r"""The same training without an engine: losses, norms of the gradient, averaged weights."""
    learner, data = DiffusionLearner(MODEL, seed=c.seed), Windows()
    learner.setup(data)
    parameters = dict(learner.named_parameters())
    average = {k: p.detach().clone() for k, p in parameters.items()}
    optimiser = torch.optim.AdamW(
        parameters.values(), c.learning_rate, c.betas, weight_decay=c.weight_decay
    )
    order, losses, norms = Order(c.seed, len(data)), [], []
    for step in range(c.steps):
        optimiser.param_groups[0]["lr"] = c.rate(step)
        optimiser.zero_grad()
        loss = learner(tensors(learner, data, order.batch(step, c.batch), c.seed, "training"))
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters.values(), c.clip)))
        optimiser.step()
        losses.append(float(loss.detach()))
        for k, p in parameters.items():
            average[k].lerp_(p.detach(), 1 - c.decay(step))
    return losses, norms, {k.removeprefix("module."): v for k, v in average.items()}


@pytest.mark.parametrize(
    ("zero", "accumulation"),
    [(0, 1), *(pytest.param(z, 2, marks=pytest.mark.slow) for z in range(4))],
)
def test_a_training_is_that_of_a_plain_loop(tmp_path, world, zero, accumulation):
    # Clipped so far that Adam, blind to the gradient's scale but for its 1e-8, feels it.
    fields = {"clip": 1e-7, "steps": 5}
    losses, norms, average = _plain(config(**fields))
    assert min(norms) > 1e-3
    run(tmp_path, world, zero=zero, accumulation=accumulation, **fields)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [x["loss"] for x in lines] == pytest.approx(losses, rel=1e-5)
    assert [x["gradient_norm"] for x in lines] == pytest.approx(norms, rel=1e-4)
    found = dict(load(tmp_path).named_parameters())
    for name, value in average.items():
        torch.testing.assert_close(found[name].detach(), value, atol=1e-5, rtol=1e-4)


def test_shares_of_time_and_throughput_by_hand(monkeypatch):
    now = iter([0.0, 1.0, 1.5, 4.0, 5.0, 5.0, 8.0])
    monkeypatch.setattr("hpcinv.training.metrics.time.perf_counter", lambda: next(now))
    clock = Clock(flops=6 * 10**12, precision="fp32")
    clock._peak = 30e12
    for _ in range(2):
        for what in ("other", "data", "step"):
            clock.lap(what)
    found = clock.figures(batch=16)
    # Two steps in 8 s, of which data took 0.5 and 0.
    assert found["samples_per_second"] == 16 * 2 / 8
    assert found["data_wait"] == 0.5 / 8
    assert found["tflops"] == 6 * 2 / 8
    assert found["mfu"] == pytest.approx(1.5 / 30)
