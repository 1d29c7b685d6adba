r"""How tensors reach MPI: through the host's memory, or as they are. The one place that knows.

`host` works with any MPI, and is the default. `direct` hands over the tensors themselves (mpi4py
reads them by DLPack): an MPI that knows the device (CUDA-aware, ROCm-aware) then sends from GPU to
GPU, another one would fail on such; on CPUs any MPI takes them. ``HPCINV_MPI_BUFFERS`` chooses, in
the `environment` of a cluster's profile.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput

__all__ = ["VARIABLE", "Direct", "Host", "buffers"]

VARIABLE = "HPCINV_MPI_BUFFERS"


class Host:
    r"""numpy arrays in the host's memory."""

    @staticmethod
    def outgoing(x: Tensor) -> np.ndarray:
        r"""A copy of ``x`` to be sent; it must outlive the send."""
        return x.detach().to("cpu", copy=True).contiguous().numpy()

    @staticmethod
    def incoming(like: Tensor, shape: Sequence[int]) -> np.ndarray:
        r"""Where to receive what will be of the type of ``like``."""
        return np.empty(tuple(shape), torch.empty(0, dtype=like.dtype).numpy().dtype)

    @staticmethod
    def arrived(buffer: np.ndarray, like: Tensor) -> Tensor:
        r"""What was received, on the device of ``like``."""
        return torch.from_numpy(buffer).to(like)


class Direct:
    r"""Tensors where they are."""

    @staticmethod
    def outgoing(x: Tensor) -> Tensor:
        out = x.detach().clone(memory_format=torch.contiguous_format)
        _settle(out)
        return out

    @staticmethod
    def incoming(like: Tensor, shape: Sequence[int]) -> Tensor:
        out = like.new_empty(tuple(shape))
        _settle(out)  # memory that an earlier kernel may still be using
        return out

    @staticmethod
    def arrived(buffer: Tensor, like: Tensor) -> Tensor:
        return buffer


def _settle(x: Tensor) -> None:
    r"""MPI knows nothing of the device's queue: what is in it has to be done."""
    if x.is_cuda:
        torch.cuda.current_stream(x.device).synchronize()


def buffers(environ: Any = os.environ) -> type[Host] | type[Direct]:
    r"""What this process hands to MPI.

    Raises:
        BadInput: If the environment names something else.
    """
    name = environ.get(VARIABLE, "host")
    kinds = {"host": Host, "direct": Direct}
    if name not in kinds:
        raise BadInput(f"'{name}'", VARIABLE, "Write host or direct.")
    return kinds[name]
