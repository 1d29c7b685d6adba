r"""Typed fields of training, without any heavy import: the planner and the schema read them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from hpcinv.training.presets import PRESETS


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainConfig(_Fields):
    r"""How a model is optimised. Limits are numbers of steps, never times: a run is a function
    of its fields and its seed."""

    steps: Annotated[int, Field(gt=0, description="optimiser steps")]
    batch: Annotated[int, Field(gt=0, description="samples per step, over all ranks")]
    accumulation: Annotated[
        int, Field(gt=0, description="parts into which a rank cuts its share of the batch")
    ] = 1
    learning_rate: Annotated[float, Field(gt=0, description="largest learning rate")] = 1e-3
    final_learning_rate: Annotated[
        float, Field(ge=0, description="learning rate of the last step, relative to the largest")
    ] = 0.0
    warmup: Annotated[int, Field(ge=0, description="steps of linear warm-up")] = 30
    schedule: Annotated[
        Literal["cosine", "constant", "plateau"],
        Field(
            description="course of the rate after warm-up; plateau: it falls where validations "
            "stop getting better, and training goes on from the best weights"
        ),
    ] = "cosine"
    patience: Annotated[
        int,
        Field(
            ge=0,
            description="validations without a better one before the rate falls (plateau) or "
            "training ends; 0 for never. The best weights are exported",
        ),
    ] = 0
    falls: Annotated[int, Field(ge=0, description="times the rate falls on a plateau")] = 3
    fall: Annotated[float, Field(gt=0, lt=1, description="factor of each fall")] = 0.3
    weight_decay: Annotated[float, Field(ge=0, description="decoupled weight decay")] = 1e-2
    betas: Annotated[tuple[float, float], Field(description="AdamW's moments")] = (0.9, 0.999)
    clip: Annotated[float, Field(ge=0, description="largest norm of the gradient, 0 for any")] = (
        1.0
    )
    ema: Annotated[
        float, Field(ge=0, lt=1, description="decay of the averaged weights, 0 for none")
    ] = 0.995
    zero: Annotated[
        Literal[0, 1, 2, 3],
        Field(
            description="ZeRO stage: 0 replicates, 1 shards the optimiser, 2 the gradients, "
            "3 the weights"
        ),
    ] = 0
    precision: Annotated[Literal["fp32", "bf16"], Field(description="of the network")] = "fp32"
    compile: Annotated[
        bool,
        Field(
            description="compile the loss with torch.compile: a minute at each start, then "
            "fewer, fused kernels; not with ZeRO stage 3"
        ),
    ] = False
    checkpoint_every: Annotated[int, Field(gt=0, description="steps between checkpoints")] = 500
    keep: Annotated[
        int,
        Field(
            ge=2,
            description="checkpoints kept, besides the one that did best in a validation at its "
            "step ('validate_every')",
        ),
    ] = 2
    validate_every: Annotated[
        int, Field(ge=0, description="steps between validations, 0 for only at the end")
    ] = 0
    validation_samples: Annotated[int, Field(ge=0, description="samples of a validation")] = 32
    log_every: Annotated[int, Field(gt=0, description="steps between lines of metrics")] = 10
    seed: Annotated[int, Field(ge=0, description="of weights, order, augmentation and noise")] = 0

    @model_validator(mode="after")
    def _cut(self) -> TrainConfig:
        if self.batch % self.accumulation:
            raise ValueError(
                f"a batch of {self.batch} samples does not divide into "
                f"{self.accumulation} accumulation steps"
            )
        if self.schedule == "plateau" and not self.patience:
            raise ValueError("schedule: plateau needs 'patience'")
        if self.patience and not self.validate_every:
            raise ValueError("'patience' counts validations: set 'validate_every'")
        if self.compile and self.zero == 3:
            raise ValueError("'compile' needs whole weights: ZeRO stage 2 at most")
        return self

    def rate(self, step: int) -> float:
        r"""The learning rate of a step, counted from 0."""
        import math

        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule != "cosine":
            return self.learning_rate * warm
        course = 0.5 + 0.5 * math.cos(math.pi * step / self.steps)
        low = self.final_learning_rate
        return self.learning_rate * warm * (low + (1 - low) * course)

    def decay(self, step: int) -> float:
        r"""The decay of the average at a step: young averages forget faster."""
        return min(self.ema, (step + 1) / (step + 11))


class MixingConfig(_Fields):
    r"""Localised mixing of the training windows (:mod:`hpcinv.training.augmentation`)."""

    length_km: Annotated[float, Field(gt=0, description="localisation length")] = 2000.0
    terms: Annotated[int, Field(gt=0, description="archive windows in each mixture")] = 24
    bank: Annotated[int, Field(ge=4, description="mixtures made once, then turned in pairs")] = 256


class _Model(_Fields):
    r"""A model's fields, of which a preset may give those that are not written."""

    @model_validator(mode="before")
    @classmethod
    def _sized(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.get("preset") is None:
            return value
        known = PRESETS[cls.model_fields["name"].default]
        return {**known.get(value["preset"], {}), **value}

    def build_fields(self) -> dict[str, Any]:
        r"""What :func:`hpcinv.models.build` takes, but for the shape of the data."""
        return self.model_dump(exclude={"preset"})


class AutoencoderConfig(_Model):
    r"""An autoencoder of states on a grid of two axes, one or none."""

    name: Literal["autoencoder"] = "autoencoder"
    preset: Annotated[
        Literal["tiny", "small", "base", "appa-500m"] | None, Field(description="a named size")
    ] = None
    latent_channels: Annotated[int, Field(gt=0, description="channels of a latent")] = 16
    stride: Annotated[
        PositiveInt | tuple[PositiveInt, PositiveInt],
        Field(description="grid points per latent cell, along both axes or each"),
    ] = 8
    width: Annotated[int, Field(gt=0, description="features on the latent grid")] = 64
    depth: Annotated[int, Field(ge=0, description="residual blocks on each side")] = 0
    position: Annotated[int, Field(ge=0, description="learnt position features")] = 4
    context: Annotated[
        int,
        Field(
            ge=0, description="of the date of a state: 2 for the time of year, 4 with that of day"
        ),
    ] = 0
    bound: Annotated[float, Field(gt=0, description="value at which latents saturate")] = 8.0
    periodic: Annotated[
        bool | Literal["both", "poles"],
        Field(
            description="the last axis closes on itself, or both do; poles: the last does, and "
            "the first runs from pole to pole, across which lies what is half a turn away"
        ),
    ] = True
    static: Annotated[
        list[str],
        Field(
            description="fields that do not change, seen by both sides: 'mask', 'floor' (the "
            "share of the channels above it), 'latitude', or 'static' variables of the import"
        ),
    ] = []

    def latent(self, grid: tuple[int, ...]) -> tuple[int, tuple[int, int]]:
        r"""Channels and grid of the latents of states on a grid."""
        plane = (1,) * (2 - len(grid)) + tuple(grid)
        stride = (self.stride,) * 2 if isinstance(self.stride, int) else self.stride
        rows, columns = (1 if n == 1 else -(-n // s) for n, s in zip(plane, stride, strict=True))
        return self.latent_channels, (rows, columns)

    def build_fields(self) -> dict[str, Any]:
        return {**super().build_fields(), "static": len(self.static)}


class _Windows(_Fields):
    r"""How the windows of a store are shown to what learns from them."""

    shift: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...] | None,
        Field(
            description="roll windows by random multiples of so many grid points, a number for "
            "each axis, 0 for none: where the axis closes on itself and statistics repeat"
        ),
    ] = None


class AutoencoderLoss(_Windows):
    r"""What an autoencoder is trained for."""

    noise: Annotated[float, Field(ge=0, description="noise injected into the latents")] = 0.1
    variance: Annotated[
        float, Field(ge=0, description="weight of the pull of latents towards unit variance")
    ] = 0.05
    residuals: Annotated[
        int, Field(ge=0, description="residual fields kept as the decoder's error, 0 for none")
    ] = 24
    residual_length_km: Annotated[
        float, Field(gt=0, description="localisation length of the decoder's error")
    ] = 600.0


class TrajectoryDenoiserConfig(_Model):
    r"""A denoiser of windows of latents or states."""

    name: Literal["trajectory_denoiser"] = "trajectory_denoiser"
    preset: Annotated[
        Literal["tiny", "small", "base", "appa-1b"] | None, Field(description="a named size")
    ] = None
    width: Annotated[int, Field(gt=0, description="channels inside")] = 64
    depth: Annotated[int, Field(gt=0, description="space-time blocks")] = 4
    heads: Annotated[int, Field(ge=0, description="attention heads, 0 for convolutions only")] = 0
    position: Annotated[int, Field(ge=0, description="learnt position features")] = 4
    context: Annotated[
        int,
        Field(
            ge=0, description="of the date of a frame: 2 for the time of year, 4 with that of day"
        ),
    ] = 2
    modes: Annotated[int, Field(ge=0, description="modes of the Gaussian skip, 0 for none")] = 0
    sigma_min: Annotated[float, Field(gt=0, description="smallest noise level")] = 0.02
    sigma_max: Annotated[float, Field(gt=0, description="largest noise level")] = 20.0
    periodic: Annotated[
        bool | Literal["both", "poles"],
        Field(
            description="the last axis closes on itself, or both do; poles: the last does, and "
            "the first runs from pole to pole, across which lies what is half a turn away"
        ),
    ] = True
    checkpointing: Annotated[bool, Field(description="recompute blocks to save memory")] = False
    reach: Annotated[
        tuple[PositiveInt, ...],
        Field(
            min_length=1,
            description="frames from each to those that a block's convolution over frames sees, "
            "of the blocks in turn: [1, 2, 4] sees further than [1] at the same cost",
        ),
    ] = (1,)

    @model_validator(mode="after")
    def _order(self) -> TrajectoryDenoiserConfig:
        if not self.sigma_min < self.sigma_max:
            raise ValueError(
                f"sigma_min {self.sigma_min} must be smaller than sigma_max {self.sigma_max}"
            )
        return self


class DiffusionLoss(_Windows):
    r"""The distribution of noise levels in training: log-normal (Karras et al., 2022)."""

    log_sigma_mean: Annotated[float, Field(description="mean of log sigma/alpha")] = 0.2
    log_sigma_std: Annotated[
        float, Field(gt=0, description="standard deviation of log sigma/alpha")
    ] = 1.3
    shrinkage: Annotated[
        float, Field(ge=0, le=1, description="of the Gaussian skip's covariance")
    ] = 0.1
    rotation: Annotated[
        bool, Field(description="turn pairs of windows by random angles: for nearly Gaussian data")
    ] = False
    short: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="share of the steps whose windows are cut to fewer frames, any number "
            "alike: the first frames of filtering have no others before them",
        ),
    ] = 0.0


Range = tuple[
    Annotated[float, Field(gt=0, description="smallest")],
    Annotated[float, Field(gt=0, description="largest")],
]


class ConditioningConfig(_Fields):
    r"""The observation sets that a conditioned denoiser is trained on."""

    channels: Annotated[
        list[str] | None, Field(min_length=1, description="those observed; default: all")
    ] = None
    fraction: Annotated[
        Range, Field(description="of the grid points observed in a frame, log-uniform")
    ] = (0.002, 0.2)
    noise: Annotated[
        Range,
        Field(
            description="σ of the observations in standard deviations of the state, log-uniform"
        ),
    ] = (0.05, 0.5)
    missing: Annotated[
        float, Field(ge=0, lt=1, description="chance of a channel to be absent from a sample")
    ] = 0.1
    gaps: Annotated[
        float, Field(ge=0, lt=1, description="chance of a frame to have no observation")
    ] = 0.1
    gaussian: Annotated[
        bool,
        Field(
            description="the Gaussian skip sees the observations, too: the network starts from "
            "interpolation in space and time ('model.modes')"
        ),
    ] = False

    @model_validator(mode="after")
    def _ordered(self) -> ConditioningConfig:
        for name in ("fraction", "noise"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"'{name}' runs from {low} down to {high}")
        if self.fraction[1] > 1:
            raise ValueError("'fraction' cannot be more than 1")
        return self
