r"""What accelerators can do at most, by name: for a model's share of it (MFU) and the planner."""

from __future__ import annotations

__all__ = ["DEVICES", "Device", "device_named"]

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    r"""One GPU as PyTorch sees it (of an MI250X, one of its two dies).

    Attributes:
        memory: Bytes.
        bf16, fp32: Dense peak, in operations per second, from the makers' data sheets. Where a
            device has no bf16 units the fp32 figure stands for both.
    """

    memory: int
    bf16: float
    fp32: float


# Longer names first: "GH200" holds "H200".
DEVICES = {
    "GH200": Device(96 * 2**30, 989e12, 67e12),
    "H200": Device(141 * 10**9, 989e12, 67e12),
    "H100": Device(80 * 2**30, 989e12, 67e12),
    "A100-80GB": Device(80 * 2**30, 312e12, 19.5e12),
    "A100-64GB": Device(64 * 2**30, 312e12, 19.5e12),  # Leonardo's
    "A100": Device(40 * 2**30, 312e12, 19.5e12),
    "V100": Device(32 * 2**30, 15.7e12, 15.7e12),
    "MI250X": Device(64 * 2**30, 191.5e12, 47.9e12),
    "MI300A": Device(128 * 10**9, 980e12, 122.6e12),
}


def device_named(name: str) -> Device | None:
    r"""The device whose name is part of what a driver calls it, e.g. `NVIDIA A100-SXM4-40GB`."""
    if "A100" in name:
        size = next((s for s in ("80GB", "64GB") if s in name), None)
        return DEVICES[f"A100-{size}" if size else "A100"]
    return next((d for key, d in DEVICES.items() if key in name), None)
