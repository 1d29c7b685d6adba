r"""The figures of a training: `metrics.jsonl`, and the same for TensorBoard.

Neither has anything beyond the step a run resumes from, so an interrupted run's curves are those
of a straight one.
"""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

import torch

from hpcinv.io.atomic import write_bytes
from hpcinv.training.devices import device_named


class Metrics:
    r"""Appends lines of figures to a file, and their curves to a folder TensorBoard reads.

    Arguments:
        path: The file; the curves go to `tensorboard/` beside it.
        step: The step the run starts from. Lines of later steps, of a start that got further
            than its last checkpoint, are removed: they will be written again.
        active: False on all ranks but one.
    """

    def __init__(self, path: Path, step: int, active: bool = True) -> None:
        self.path, self.active = Path(path), active
        self._curves: Any = None
        self._first = step
        if active and self.path.exists():
            kept = []
            for line in self.path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line)
                except (ValueError, KeyError):
                    continue  # the line a kill tore
            write_bytes(self.path, "".join(f"{line}\n" for line in kept).encode())

    def write(self, **figures: Any) -> None:
        r"""Appends a line."""
        if not self.active:
            return
        with open(self.path, "a") as f:
            f.write(json.dumps(figures) + "\n")
        if self._curves is None:
            from torch.utils.tensorboard import SummaryWriter

            folder = self.path.with_name("tensorboard")
            self._curves = SummaryWriter(str(folder), purge_step=self._first + 1)
        for name, value in figures.items():
            if name != "step" and value is not None:
                self._curves.add_scalar(name, value, figures["step"])
        self._curves.flush()

    def close(self) -> None:
        if self._curves is not None:
            self._curves.close()


class Clock:
    r"""Where the time of the steps goes, between two lines of metrics.

    Arguments:
        flops: Operations of this rank in one step, 0 if unknown.
        precision: `fp32` or `bf16`, which decides the device's peak.
    """

    def __init__(self, flops: int, precision: str) -> None:
        self._flops, self._peak = flops, None
        if torch.cuda.is_available():
            device = device_named(torch.cuda.get_device_name())
            self._peak = getattr(device, precision) if device else None
        self._last = time.perf_counter()
        self._spent: dict[str, float] = {}
        self._steps = 0

    def lap(self, name: str) -> None:
        r"""Counts the time since the last lap under a name."""
        now = time.perf_counter()
        self._spent[name] = self._spent.get(name, 0.0) + now - self._last
        self._last = now
        self._steps += name == "step"

    def figures(self, batch: int) -> dict[str, float | None]:
        r"""Throughput, the share of time spent waiting for data, memory; starts anew.

        `tflops` counts the model's own operations on one rank, `mfu` is their share of the
        device's peak (None where that is not known, as on a CPU), `memory` the peak so far in
        bytes: the allocator's on a GPU, the process's else.
        """
        total = sum(self._spent.values())
        rate = self._steps / total if total else 0.0
        found: dict[str, float | None] = {
            "samples_per_second": rate * batch,
            "data_wait": self._spent.get("data", 0.0) / total if total else 0.0,
            "tflops": rate * self._flops / 1e12 if self._flops else None,
            "mfu": rate * self._flops / self._peak if self._flops and self._peak else None,
            "memory": torch.cuda.max_memory_allocated()
            if torch.cuda.is_available()
            else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        }
        self._spent, self._steps = {}, 0
        return found
