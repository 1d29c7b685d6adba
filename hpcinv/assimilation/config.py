r"""The settings of a posterior sampler, checked when a job file is read (no torch here)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import BadInput

__all__ = ["CoarseConfig", "GuidanceConfig", "SamplerConfig", "settings"]

LARGEST = 64  # observations of a window that is solved directly: a product of the network each
Positive = Annotated[float, Field(gt=0)]


class SamplerConfig(BaseModel):
    r"""How the reverse diffusion is simulated.

    With s = σ/α, the noise levels s₀ > … > s_N run from `sigma_max` to `sigma_min`, by default
    the whole range of the denoiser's schedule.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["ddpm", "ddim", "heun", "adams-bashforth"] = Field(
        "heun", description="ddim with eta = 1 is ddpm; heun calls the denoiser twice a step"
    )
    steps: int = Field(32, ge=1, description="number of steps from sigma_max to sigma_min")
    eta: float = Field(0.0, ge=0, le=1, description="ddim: share of fresh noise in each step")
    order: int = Field(2, ge=1, le=4, description="adams-bashforth: denoiser calls remembered")
    corrections: int = Field(0, ge=0, description="Langevin corrections before each step")
    delta: float = Field(0.5, gt=0, lt=1, description="share of noise a correction renews")
    spacing: Literal["rho", "log", "time"] = Field(
        "rho", description="rho: even in s^(1/rho); log: even in log s; time: even in t"
    )
    rho: Positive = Field(7.0, description="exponent of the rho spacing (Karras et al. 2022)")
    sigma_min: Positive | None = Field(None, description="last noise level, in units of the state")
    sigma_max: Positive | None = Field(None, description="first noise level")
    final: Literal["denoise", "keep"] = Field(
        "denoise", description="denoise: end with the mean at sigma_min; keep: end with x itself"
    )

    @model_validator(mode="after")
    def _ordered(self) -> SamplerConfig:
        if self.sigma_min and self.sigma_max and self.sigma_min >= self.sigma_max:
            raise ValueError("sigma_min must be smaller than sigma_max")
        if self.spacing == "time" and (self.sigma_min or self.sigma_max):
            raise ValueError("spacing: time takes the schedule's own range; drop sigma_min/max")
        return self

    @property
    def per_step(self) -> int:
        r"""Denoiser calls per member in one step."""
        return (2 if self.method == "heun" else 1) + self.corrections

    @property
    def calls(self) -> int:
        r"""Denoiser calls per member, the final one included."""
        return self.steps * self.per_step + (self.final == "denoise")


class CoarseConfig(BaseModel):
    r"""Windows of a larger time step beside the fine ones: they carry long memory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int = Field(ge=2, description="frames from one of a window to the next")
    window: int = Field(ge=2, description="frames of a window")
    overlap: int = Field(1, ge=1, description="frames that neighbouring windows share")

    @model_validator(mode="after")
    def _advances(self) -> CoarseConfig:
        if self.overlap >= self.window:
            raise ValueError(f"windows of {self.window} frames cannot share {self.overlap}")
        return self


class GuidanceConfig(BaseModel):
    r"""How observations enter the denoiser's mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["mmps", "dps", "sda", "none"] = Field(
        "mmps", description="moment matching (Rozet et al. 2024), or a simpler baseline"
    )
    scope: Literal["trajectory", "window"] | None = Field(
        None,
        description="trajectory: one solve for all frames; window: one per window, without "
        "messages; by default window, unless the method or the covariance asks for trajectory",
    )
    covariance: Literal["own", "averaged", "isotropic", "markov"] = Field(
        "own",
        description="mmps: covariance of x given x_t. own: the Jacobian; where windows compose "
        "one that is not positive, averaged for that call; averaged: windows under a partition "
        "of unity, positive; isotropic: no Jacobian; markov: a Gaussian chain, in a job that "
        "of the prior's modes and their memory; no Jacobian",
    )
    solver: Literal["cg", "gmres", "direct"] = Field(
        "cg",
        description="mmps: direct, of each window by itself, takes a product for each of its "
        "observations (at most 64) and drops what is not positive of the Jacobian",
    )
    iterations: int = Field(3, ge=1, le=100, description="mmps: most solver iterations")
    tolerance: float = Field(0.0, ge=0, lt=1, description="mmps: relative residual to stop at")
    strength: Positive = Field(1.0, description="dps: zeta of Chung et al. 2022")
    gamma: float = Field(
        1.0,
        ge=0,
        description="sda: Γ of Rozet & Louppe 2023. With 1 a correction never goes beyond what "
        "is observed; with less (theirs is 0.01) few steps diverge",
    )
    limit: Positive = Field(
        50.0,
        description="largest rms correction of a frame (of dps: its step), in units of the "
        "state: beyond, fall back to an isotropic covariance for that call and say so",
    )
    memory: Positive = Field(
        1e9, description="bytes a rank may hold for the decoder's graph before it recomputes"
    )

    @model_validator(mode="after")
    def _sensible(self) -> GuidanceConfig:
        if self.scope == "window" and self._joint:
            raise ValueError(
                "scope: window goes with covariance: own or isotropic, and with mmps or sda"
            )
        if self.solver == "direct" and not self.per_window:
            raise ValueError("solver: direct goes with scope: window")
        return self

    @property
    def _joint(self) -> bool:
        return self.method == "dps" or (
            self.method == "mmps" and self.covariance in ("averaged", "markov")
        )

    @property
    def products(self) -> int:
        r"""Products of a solve, at most: what they are for `direct` depends on the data."""
        return LARGEST if self.solver == "direct" else self.iterations

    @property
    def per_window(self) -> bool:
        r"""Whether each window is guided by itself.

        Then `center` is Appa's scheme, and `junction` adds scores of guided windows and subtracts
        those of guided overlaps: each observation counts once, and for a chain the sum is exact
        as t → 0. On both oracles of `scripts/benchmarks/posterior.py` it is the best of what
        windows can do, and its covariances stay positive, hence the default.
        """
        return self.scope == "window" or (self.scope is None and not self._joint)


C = TypeVar("C", bound=BaseModel)


def settings(kind: type[C], given: C | dict[str, Any] | None, where: str) -> C:
    r"""Settings from a mapping, an instance or nothing.

    Raises:
        BadInput: If a key is unknown or a value is out of bounds.
    """

    if given is None:
        return kind()
    if isinstance(given, kind):
        return given
    try:
        return kind(**given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join([where, *(str(k) for k in first["loc"])])
        known = ", ".join(kind.model_fields)
        raise BadInput(first["msg"], where=key, instead=f"Known keys: {known}.") from None
