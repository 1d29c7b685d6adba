r"""What a training step costs: memory beside the planner's estimate, and time beside a plain loop.

    python scripts/benchmarks/training.py memory    # each ZeRO stage and precision, one rank
    python scripts/benchmarks/training.py step      # the engine against a plain PyTorch loop
    python scripts/benchmarks/training.py data      # the share of a step spent waiting for data
    python scripts/benchmarks/training.py large     # appa-500m: one step; appa-1b: there and back

Memory is what a process has grown by, from before the model is built to the peak of three steps;
one thread. Blocks of more than 256 KiB are given back when freed, so that the figure is what is
held and not how glibc keeps it (left to itself, up to 40% more). It says nothing about GPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hpcinv.training.learner import Learner

WINDOW, CHANNELS, GRID = 4, 16, (12, 18)
MODEL = {"name": "trajectory_denoiser", "width": 192, "depth": 8, "heads": 4, "context": 2}
GIVEN_BACK = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 18)}
SHAPED = {**MODEL, "channels": CHANNELS, "grid": GRID}


def resident(peak: bool = False) -> int:
    r"""Bytes of this process in memory, now or at their peak since :func:`forget`."""
    name = "VmHWM:" if peak else "VmRSS:"
    with open("/proc/self/status") as f:
        return next(1024 * int(line.split()[1]) for line in f if line.startswith(name))


def forget() -> None:
    r"""Starts a new peak."""
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")


def sample(window: int, channels: int, grid: tuple[int, ...], context: int) -> dict:
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((window, channels, *grid), dtype=np.float32),
        "context": np.zeros((window, context), np.float32),
    }


def shaped(learner, one: dict) -> dict:
    r"""What the learner draws for a sample."""
    return learner.draw(one, np.random.default_rng(0))


def batch_of(learner, one: dict, number: int) -> dict:
    import torch

    from hpcinv.training.data import stack

    drawn = [learner.draw(one, np.random.default_rng(i)) for i in range(number)]
    return {k: torch.from_numpy(v) for k, v in stack(drawn).items()}


def measure(zero: int, precision: str, micro: int) -> None:
    r"""Prints, as JSON, what three real steps of one rank hold, and what was foreseen."""
    import torch

    from hpcinv.parallel import connect
    from hpcinv.training import cost
    from hpcinv.training.config import TrainConfig
    from hpcinv.training.diffusion import DiffusionLearner
    from hpcinv.training.engine import Average, start

    torch.set_num_threads(1)
    world = connect("torch")
    config = TrainConfig(steps=3, batch=micro, zero=zero, precision=precision)
    # What libraries allocate at their first use is theirs, not the model's.
    tiny = DiffusionLearner({**SHAPED, "width": 32, "depth": 1, "heads": 1})
    start(tiny, config, world)(batch_of(tiny, sample(WINDOW, CHANNELS, GRID, 2), 1))
    one = sample(WINDOW, CHANNELS, GRID, 2)
    planned = DiffusionLearner(SHAPED)
    found = cost.describe(planned, shaped(planned, one), micro, precision)
    foreseen = cost.memory(found, zero, precision, 1)
    del planned
    forget()
    before = resident()
    learner = DiffusionLearner(SHAPED)
    engine = start(learner, config, world)
    average = Average(engine)
    for _ in range(3):
        engine.backward(engine(batch_of(learner, one, micro)))
        engine.step()
        average.update(0.9)
    print(json.dumps({"measured": resident(peak=True) - before, **foreseen}))
    sys.stdout.flush()
    world.finish(0)


def memory() -> None:
    print(f"{SHAPED}, windows of {WINDOW}; GB of one rank")
    print(
        f"{'zero':>4} {'precision':>9} {'batch':>5} {'foreseen':>9} {'measured':>9} {'ratio':>6}"
    )
    for zero, precision, micro in [
        (0, "fp32", 1), (0, "fp32", 4), (1, "fp32", 1), (2, "fp32", 1), (3, "fp32", 1),
        (0, "bf16", 1), (1, "bf16", 1), (3, "bf16", 1), (3, "bf16", 4),
    ]:  # fmt: skip
        done = subprocess.run(
            [sys.executable, __file__, "one", str(zero), precision, str(micro)],
            capture_output=True, text=True, check=False,
            env=GIVEN_BACK,
        )  # fmt: skip
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        found = json.loads(done.stdout.splitlines()[-1])
        a, b = found["all"] / 1e9, found["measured"] / 1e9
        print(f"{zero:4} {precision:>9} {micro:5} {a:9.3f} {b:9.3f} {a / b:6.2f}", flush=True)


def step(steps: int = 30) -> None:
    r"""ZeRO 0 beside torch's AdamW on the same model and data, alternately."""
    import torch

    from hpcinv.parallel import connect
    from hpcinv.training.config import TrainConfig
    from hpcinv.training.diffusion import DiffusionLearner
    from hpcinv.training.engine import start

    torch.set_num_threads(1)
    world = connect("torch")
    model = {**SHAPED, "width": 96, "depth": 4, "heads": 0}
    ours, plain = DiffusionLearner(model), DiffusionLearner(model)
    engine = start(ours, TrainConfig(steps=1, batch=4), world)
    optimiser = torch.optim.AdamW(plain.parameters(), 1e-3)
    batch = batch_of(ours, sample(WINDOW, CHANNELS, GRID, 2), 4)
    spent = {"engine": [], "plain": []}
    for _ in range(steps):
        began = time.perf_counter()
        engine.backward(engine(batch))
        engine.step()
        spent["engine"].append(time.perf_counter() - began)
        began = time.perf_counter()
        optimiser.zero_grad()
        plain(batch).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimiser.step()
        spent["plain"].append(time.perf_counter() - began)
    a, b = (np.median(spent[k][3:]) for k in ("engine", "plain"))
    print(f"{model}, batch 4 of {WINDOW} frames: engine {a:.3f} s, plain loop {b:.3f} s, "
          f"ratio {a / b:.3f}")  # fmt: skip
    sys.stdout.flush()
    world.finish(0)


def data(steps: int = 60) -> None:
    r"""Windows read from the files of a store as they are asked for, with nothing kept."""
    import tempfile
    from pathlib import Path

    import torch

    from hpcinv.io.store import TrajectoryStore
    from hpcinv.io.write_store import StoreWriter
    from hpcinv.parallel import connect
    from hpcinv.training import data as samples
    from hpcinv.training import train
    from hpcinv.training.autoencoder import AutoencoderLearner
    from hpcinv.training.config import AutoencoderConfig, TrainConfig
    from hpcinv.training.diffusion import DiffusionLearner

    torch.set_num_threads(1)
    samples.KEPT_IN_MEMORY = 0
    world = connect("torch")
    frames, grid = 600, (48, 72)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        writer = StoreWriter(
            Path(folder) / "store",
            channels=[f"x{i}" for i in range(CHANNELS)],
            units=["1"] * CHANNELS,
            coords={"y": np.arange(grid[0], dtype=float), "x": np.arange(grid[1], dtype=float)},
            coord_attrs={"y": {}, "x": {}},
            time=np.arange(frames, dtype=float),
            time_units="1",
        )
        for t in range(frames):
            writer.write(t, rng.standard_normal((1, CHANNELS, *grid), dtype=np.float32))
        writer.close()
        store = TrajectoryStore.open(Path(folder) / "store")
        shape = {"channels": CHANNELS, "grid": list(grid)}
        coder = AutoencoderConfig(preset="tiny", context=0).build_fields()
        denoiser = {**MODEL, "width": 64, "depth": 4, "heads": 0, "context": 0}
        for name, window, learner in (
            ("autoencoder", 1, AutoencoderLearner({**coder, **shape})),
            ("denoiser", WINDOW, DiffusionLearner({**denoiser, **shape})),
        ):
            config = TrainConfig(steps=steps, batch=4, checkpoint_every=steps)
            where = Path(folder) / name
            where.mkdir()
            train(learner, samples.WindowDataset(store, window), config, world=world, folder=where)
            lines = map(json.loads, (where / "metrics.jsonl").read_text().splitlines())
            waits = [line["data_wait"] for line in lines if "data_wait" in line]
            print(f"{name}: {np.mean(waits):.2%} of the time, at most {max(waits):.2%} of ten "
                  "steps", flush=True)  # fmt: skip
    world.finish(0)


def large(preset: str | None = None) -> None:
    r"""The presets of Appa, as they are; the denoiser on fewer frames and a smaller grid.

    Each in a process of its own, which holds nothing of the other's.
    """
    if preset is None:
        for name in ("appa-500m", "appa-1b"):
            subprocess.run([sys.executable, __file__, "large", name], check=True, env=GIVEN_BACK)
        return
    import torch

    from hpcinv.parallel import connect
    from hpcinv.training import cost
    from hpcinv.training.autoencoder import AutoencoderLearner
    from hpcinv.training.config import AutoencoderConfig, TrainConfig, TrajectoryDenoiserConfig
    from hpcinv.training.diffusion import DiffusionLearner
    from hpcinv.training.engine import start

    # oneDNN has only its reference code for weight gradients of 32 x 32 kernels: hours on a CPU.
    torch.backends.mkldnn.set_flags(False)
    world = connect("torch")
    globe = {"channels": 71, "grid": [721, 1440]}
    latent = {"channels": 32, "grid": [12, 24]}

    def measured(name: str, make: Callable[[], Learner], one: dict, optimise: bool) -> None:
        forget()
        before, began = resident(), time.perf_counter()
        learner = make()
        found = cost.describe(learner, shaped(learner, one), 1)
        batch = batch_of(learner, one, 1)
        if optimise:
            engine = start(learner, TrainConfig(steps=1, batch=1, ema=0), world)
            engine.backward(engine(batch))
            engine.step()
            foreseen = cost.memory(found, 0, "fp32", 1, ema=False)["all"]
        else:
            learner(batch).backward()
            foreseen = 8 * found.parameters + found.activations  # weights and their gradients
        given = [p.grad for p in learner.parameters() if p.grad is not None]
        assert all(torch.isfinite(g).all() for g in given)
        print(f"{name}: {found.parameters / 1e6:.0f} million parameters, {found.flops / 1e12:.1f} "
              f"TFLOP, {time.perf_counter() - began:.0f} s; foreseen {foreseen / 1e9:.2f} GB, "
              f"measured {(resident(peak=True) - before) / 1e9:.2f} GB", flush=True)  # fmt: skip

    if preset == "appa-500m":
        coder = AutoencoderConfig(preset=preset, context=4).build_fields()
        measured(
            f"{preset}, one step", lambda: AutoencoderLearner(coder | globe),
            sample(1, 71, (721, 1440), 4), True,
        )  # fmt: skip
    else:
        prior = TrajectoryDenoiserConfig(preset=preset, context=4).build_fields()
        measured(
            f"{preset}, there and back, 4 frames of 12 x 24",
            lambda: DiffusionLearner(prior | latent), sample(4, 32, (12, 24), 4), False,
        )  # fmt: skip
    world.finish(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("memory", "step", "data", "large", "one"))
    parser.add_argument("fields", nargs="*")
    given = parser.parse_args()
    if given.what == "one":
        measure(int(given.fields[0]), given.fields[1], int(given.fields[2]))
    else:
        {"memory": memory, "step": step, "data": data, "large": large}[given.what](*given.fields)
