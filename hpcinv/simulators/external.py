r"""A simulator that is a program: parameters in a file, results in a file.

The program is started once for each simulation, in a folder of its own that is removed at the
end, with two paths on its command line. It reads

    {input}    JSON: {"id": 17, "seed": 4201, "theta": {"mass": 1.2, ...}}

and writes `{output}`: numbers as text, or a numpy array if the path ends in `.npy`. The seed is a
function of the study's seed and the id, so a program that uses it gives the same draws however
an array is split. Any exit code but 0 is a failure of this simulation.
"""

from __future__ import annotations

__all__ = ["External"]

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput
from .base import Axis, Key, Output, Parameter, Prior


class External:
    r"""A program as a simulator.

    Arguments:
        command: The program and its arguments; `{input}` and `{output}` stand for the paths.
        parameters: Fields of each :class:`Parameter`.
        outputs: `name`, `unit` and `shape` of what it gives.
        timeout: Seconds it may take.
        folder: Where relative paths of the command start.

    Raises:
        BadInput: If the command names no `{output}`, or a parameter is wrong.
    """

    batched = False

    def __init__(
        self, command: Sequence[str], parameters: Sequence[Mapping[str, Any]],
        outputs: Mapping[str, Any], timeout: float | None = None, folder: str | None = None,
    ) -> None:  # fmt: skip
        self.command = [str(c) for c in command]
        if not any("{output}" in c for c in self.command):
            raise BadInput(
                "the command has no '{output}'", "simulate.command",
                "Write where the program shall put its result: ... {input} {output}.",
            )  # fmt: skip
        for p in parameters:
            if "unit" not in p:
                raise BadInput(
                    "the unit is missing", f"prior of '{p.get('name')}'",
                    "Write 'unit: K', or '1' for none.",
                )  # fmt: skip
            for end in ("low", "high"):
                if end not in p:
                    raise BadInput(f"'{end}' is missing", f"prior of '{p.get('name')}'")
        self.prior = Prior(Parameter(**p) for p in parameters)
        axes = tuple(
            Axis(f"axis{i}", "1", tuple(range(int(n)))) for i, n in enumerate(outputs["shape"])
        )
        self.outputs = Output(str(outputs["name"]), str(outputs["unit"]), axes)
        self.timeout, self.folder = timeout, folder

    def simulate(self, theta: Tensor, key: Key) -> Tensor:
        r"""Runs the program for one row of parameters."""
        values = [float(v) for v in theta[0]]
        seed = int(key.generator("program").integers(2**31))
        told = {
            "id": int(key.ids[0]),
            "seed": seed,
            "theta": dict(zip(self.prior.names, values, strict=True)),
        }
        with tempfile.TemporaryDirectory(prefix="hpcinv-") as place:
            given, made = Path(place) / "input.json", Path(place) / "output.npy"
            if not any("{output}.npy" in c for c in self.command):
                made = Path(place) / "output"
            given.write_text(json.dumps(told))
            command = [
                c.replace("{output}.npy", str(made)).format(input=given, output=made)
                for c in self.command
            ]
            self._start(command)
            if made.suffix == ".npy":
                x = np.load(made, allow_pickle=False)
            else:
                x = np.loadtxt(made)
        shape = self.outputs.shape
        if x.size != np.prod(shape, dtype=int):
            raise ValueError(f"the program gave {x.size} numbers, not {shape}")
        return torch.from_numpy(np.asarray(x, np.float32).reshape(1, *shape))

    def _start(self, command: list[str]) -> None:
        process = subprocess.Popen(
            command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip
        try:
            _, said = process.communicate(timeout=self.timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # what it started, too
            process.communicate()
            raise TimeoutError(f"no end within {self.timeout:g} s") from None
        if process.returncode:
            last = said.strip().splitlines()[-1:] or ["it said nothing"]
            raise RuntimeError(f"exit code {process.returncode}: {last[0][:300]}")
