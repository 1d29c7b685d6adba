r"""One loop that trains every model: DeepSpeed engine, checkpoints, EMA, exact resume.

Importing this package loads no torch: :mod:`hpcinv.training.config` is read by the planner.
"""

from __future__ import annotations

from typing import Any

__all__ = ["train"]


def __getattr__(name: str) -> Any:
    if name == "train":
        from hpcinv.training.loop import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
