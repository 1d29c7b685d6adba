r"""What went wrong at which call, by name: nothing falls back in silence."""

from __future__ import annotations

from dataclasses import asdict, dataclass

__all__ = ["Diverged", "Event"]


@dataclass(frozen=True)
class Event:
    r"""A guided call that could not be trusted, and what was done instead."""

    member: int
    frames: tuple[int, ...]
    step: int
    sigma: float
    what: str
    instead: str

    def as_dict(self) -> dict:
        return asdict(self) | {"frames": list(self.frames)}


class Diverged(RuntimeError):
    r"""The denoiser itself, without observations, gave values that are not finite."""

    def __init__(self, what: str, member: int, frame: int, step: int, sigma: float) -> None:
        self.member, self.frame, self.step, self.sigma = member, frame, step, sigma
        super().__init__(f"{what}: member {member}, frame {frame}, step {step}, sigma {sigma:.4g}")
