r"""Toys that the tests of training share, also run as a script by ranks."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from hpcinv.errors import Stopped
from hpcinv.training import train
from hpcinv.training.config import DiffusionLoss, TrainConfig
from hpcinv.training.diffusion import DiffusionLearner

MODEL = {"name": "trajectory_denoiser", "channels": 2, "grid": (3, 4), "width": 16, "depth": 1}


class Windows:
    r"""Twelve fixed windows of three frames."""

    def __len__(self):
        return 12

    def sample(self, epoch, number):
        x = np.random.default_rng(number).standard_normal((3, 2, 3, 4), dtype=np.float32)
        return {"x": x, "context": np.full((3, 2), number / 12, np.float32)}


class StopAfter:
    r"""Asks to stop after some steps."""

    def __init__(self, steps):
        self.left = steps

    def requested(self, world):
        self.left -= 1
        return self.left < 0


def config(**fields):
    given = {"steps": 7, "batch": 4, "warmup": 2, "checkpoint_every": 2, "log_every": 1}
    return TrainConfig(**{**given, "learning_rate": 1e-2, "seed": 5, **fields})


def run(folder, world, dataset=None, stop=None, validation=None, model=None, short=0.0, **fields):
    loss = DiffusionLoss(short=short)
    learner = DiffusionLearner({**MODEL, **(model or {})}, loss, seed=5)
    return train(
        learner,
        dataset or Windows(),
        config(**fields),
        world=world,
        folder=folder,
        stop=stop,
        validation=validation,
    )


def weights(folder):
    return (Path(folder) / "weights.safetensors").read_bytes()


def kill_in_save(rank, tag):
    r"""Makes this rank die by kill -9 while it flushes a checkpoint, one file of it torn."""
    from hpcinv.training import checkpoints

    flush = checkpoints.sync

    def dying(path):
        if tag in str(path):
            Path(path).write_bytes(Path(path).read_bytes()[:100])
            os.kill(os.getpid(), signal.SIGKILL)
        flush(path)

    if int(os.environ["HPCINV_RANK"]) == rank:
        checkpoints.sync = dying


def hold(folder, world):
    r"""Writes how many numbers this rank holds of the average and of Adam's first moment, by
    ZeRO stage."""
    from hpcinv.training.engine import Average, start

    found = []
    for zero in range(4):
        learner = DiffusionLearner(MODEL, seed=5)
        engine = start(learner, config(zero=zero), world)
        drawn = learner.draws(Windows(), [(0, 0), (0, 1)], 5, "training")
        engine.backward(engine({k: torch.from_numpy(v) for k, v in drawn.items()}))
        engine.step()
        average = sum(m.numel() for m in Average(engine).shards)
        inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
        moment = sum(s["exp_avg"].numel() for s in inner.state.values())
        found.append([average, moment])
    (folder / f"held-{world.rank}.json").write_text(json.dumps(found))


class Measuring(DiffusionLearner):
    r"""Measures something else on every rank, as if their processors differed."""

    def __init__(self, rank):
        super().__init__(MODEL, seed=5)
        self.rank = rank
        self.register_buffer("measured", torch.zeros(3))

    def setup(self, dataset):
        self.measured.fill_(self.rank + 1.0)


def measure(folder, world):
    r"""Writes what a rank has in the end of what the ranks measured before their first step."""
    learner = Measuring(world.rank)
    train(learner, Windows(), config(), world=world, folder=folder)
    (folder / f"measured-{world.rank}.json").write_text(json.dumps(learner.measured.tolist()))


def main():
    from hpcinv.parallel import connect

    folder, mode, fields = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    torch.set_num_threads(1)
    world = connect("torch", rendezvous=folder, timeout=200)  # of a busy machine
    if mode == "kill":
        kill_in_save(rank=1, tag="step-4-")
    if mode == "hold":
        hold(folder, world)
        sys.exit(world.finish(0))
    if mode == "measure":
        measure(folder, world)
        sys.exit(world.finish(0))
    stop = StopAfter(3) if mode == "stop" else None
    code = 0
    try:
        run(folder, world, stop=stop, **fields)
    except Stopped:
        code = 75
    sys.exit(world.finish(code))


if __name__ == "__main__":
    main()
