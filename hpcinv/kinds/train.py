r"""`kind: train`: an autoencoder, a diffusion prior or a posterior, through the one loop."""

from __future__ import annotations

__all__ = ["Train"]

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, ValidationError, field_validator, model_validator

from ..errors import BadInput, nearest
from ..training.config import (
    AutoencoderConfig,
    AutoencoderLoss,
    ConditioningConfig,
    DiffusionLoss,
    MixingConfig,
    TrainConfig,
    TrajectoryDenoiserConfig,
)
from ..training.posterior_config import POSTERIOR_TRAINING, PosteriorConfig, PosteriorLoss
from .base import Context, Job, Ref

if TYPE_CHECKING:
    from .study import Study

LOSSES = {
    "autoencoder": AutoencoderLoss,
    "trajectory_denoiser": DiffusionLoss,
    "posterior": PosteriorLoss,
}
MAKES = {"autoencoder": "autoencoder", "trajectory_denoiser": "prior", "posterior": "posterior"}


class Train(Job):
    r"""Trains a model on the windows of a store, or a posterior on simulations; resumes from its
    newest whole checkpoint."""

    kind: Literal["train"] = "train"
    data: Annotated[str, Ref("store|simulations")]
    frames: tuple[int, int] | None = Field(None, description="half-open range; default: all")
    held: tuple[int, int] | None = Field(
        None, description="frames inside the training period kept for validation"
    )
    window: int = Field(1, ge=1, description="frames of a sample")
    time_steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1,),
        min_length=1,
        description="frames from one of a window to the next; of several, each is learnt, and the "
        "denoiser is told which it sees: 'assimilate' can then use 'coarse' windows",
    )
    model: Annotated[
        AutoencoderConfig | TrajectoryDenoiserConfig | PosteriorConfig,
        Field(discriminator="name"),
    ]
    loss: SerializeAsAny[Any] = Field(None, description="fields of the model's loss")
    augmentation: MixingConfig | None = None
    conditioning: ConditioningConfig | None = Field(
        None, description="observation sets that a denoiser is shown: method 'conditioned'"
    )
    training: TrainConfig
    verify: Literal["full", "quick"] = Field(
        "full",
        description="before the first step read all that is learnt from, compare digests and look "
        "for what is not finite; or look at the sizes of the files only",
    )
    seeds: int = Field(
        1,
        ge=1,
        description="of a posterior: trainings from 'seed', 'seed' + 1, ..., whose flows make one "
        "ensemble",
    )

    backend: ClassVar[str] = "torch"
    axes: ClassVar[tuple[str, ...]] = ("seeds",)

    def axis(self, over: str) -> int:
        return self.seeds

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        r"""A posterior is trained until validation gets no better, whatever there is to learn."""
        model = data.get("model") if isinstance(data, dict) else None
        if not isinstance(model, dict) or model.get("name") != "posterior":
            return data
        given = data.get("training") or {}
        return data | {"training": POSTERIOR_TRAINING | given} if isinstance(given, dict) else data

    @field_validator("loss", mode="before")
    @classmethod
    def _loss(cls, value: Any, info: Any) -> Any:
        model = info.data.get("model")
        if model is None:  # the model's own error is told
            return value
        of = LOSSES[model.name]
        try:
            return of.model_validate(value or {})
        except ValidationError as e:
            first = e.errors(include_url=False)[0]
            key = ".".join(str(k) for k in first["loc"])
            if first["type"] == "extra_forbidden":
                hint = nearest(key, of.model_fields)
                raise ValueError(f"unknown key '{key}' for {model.name}. {hint}") from None
            raise ValueError(f"'{key}': {first['msg']}") from None

    @property
    def makes(self) -> str:
        return MAKES[self.model.name]

    def check(self, name: str, study: Study) -> None:
        where = study.sources[name]
        if "seed" in self.training.model_fields_set:
            raise BadInput(
                "'training.seed' is the job's 'seed'",
                where.where(("training", "seed")),
                "Write seed at the top of the file.",
            )
        if self.conditioning is not None and self.model.name != "trajectory_denoiser":
            raise BadInput(
                f"'conditioning' means nothing to a model '{self.model.name}'",
                where.where(("conditioning",)),
            )
        if self.conditioning is not None and self.conditioning.gaussian:
            if not getattr(self.model, "modes", 0):
                raise BadInput(
                    "'conditioning.gaussian' of a model without a Gaussian skip",
                    where.where(("conditioning", "gaussian")),
                    "Give 'model.modes', or leave it out.",
                )
        self._check_data(study, where)
        self._check_time_steps(where)
        self._check_seeds(where)
        if getattr(self.loss, "short", 0) and self.window < 2:
            raise BadInput(
                "'loss.short' of windows of one frame, which cannot be cut",
                where.where(("loss", "short")),
                "Leave it out, or give a longer 'window'.",
            )
        span = self.frames or _span(study, self.data)
        step = max(self.time_steps)
        for what, within in (("frames", span), ("held", self.held)):
            if within is not None and step * (self.window - 1) + 1 > within[1] - within[0]:
                apart = f", {step} apart," if step > 1 else ""
                raise BadInput(
                    f"windows of {self.window} frames{apart} do not fit into "
                    f"{within[1] - within[0]} {'held ' * (what == 'held')}frames",
                    where.where(("window",)),
                    f"Shorten the window or widen '{what}'.",
                )
        if self.training.batch % self.resources.tasks:
            raise BadInput(
                f"a batch of {self.training.batch} does not divide among "
                f"{self.resources.tasks} ranks",
                where.where(("training", "batch")),
                "Change the batch or the ranks.",
            )

    def _check_time_steps(self, where: Any) -> None:
        r"""Time steps are a denoiser's, and of windows as they are."""
        if self.time_steps == (1,):
            return
        place = where.where(("time_steps",))
        if self.model.name != "trajectory_denoiser" or self.window < 2:
            raise BadInput(
                f"'time_steps' means nothing to {self.model.name} with windows of {self.window}",
                place,
            )
        if len(set(self.time_steps)) < len(self.time_steps):
            raise BadInput(f"'time_steps' {list(self.time_steps)} has one twice", place)
        if self.augmentation is not None or self.loss.rotation:
            raise BadInput(
                "windows are mixed or turned with others of the same time step only",
                place,
                "Leave out 'augmentation' and 'loss.rotation', or the time steps.",
            )

    def _check_seeds(self, where: Any) -> None:
        r"""Only flows can be mixed; models of other kinds stay several."""
        array = self.resources.array
        cut = array is not None and array.over == "seeds"
        if self.model.name != "posterior" and (self.seeds > 1 or cut):
            key = ("seeds",) if self.seeds > 1 else ("resources", "array", "over")
            raise BadInput(
                f"models '{self.model.name}' of several seeds cannot be made one",
                where.where(key),
                "Write each: {seed: [0, 1, 2]}: a job, and a model, of each seed.",
            )

        if cut and self.seeds == 1:
            raise BadInput(
                "an array over seeds of one seed",
                where.where(("resources", "array", "over")),
                "Write seeds: 2 or more, or leave out the array.",
            )

    def _check_data(self, study: Study, where: Any) -> None:
        r"""Posteriors learn from simulations, the other models from trajectories."""
        posterior = self.model.name == "posterior"
        job = study.jobs.get(self.data)
        wanted = "simulations" if posterior else "store"
        if job is not None and wanted not in job.makes.split("|"):
            raise BadInput(
                f"a model '{self.model.name}' learns from {wanted}; "
                f"'{self.data}' makes {job.makes}",
                where.where(("data",)),
            )
        if not posterior:
            return
        for field in ("frames", "held", "augmentation"):
            if getattr(self, field) is not None:
                raise BadInput(
                    f"'{field}' means nothing to a posterior",
                    where.where((field,)),
                    "Withheld simulations are 'loss.validation'." if field == "held" else None,
                )
        if self.training.precision != "fp32":
            raise BadInput(
                "a posterior is trained in fp32: densities need the digits",
                where.where(("training", "precision")),
            )

    def run(self, ctx: Context) -> dict[str, str]:
        import torch

        from .training_data import archive, mixed, read_through

        torch.set_num_threads(ctx.threads)
        if self.model.name == "posterior":
            from .train_posterior import run

            return run(self, ctx)
        store = ctx.store(self.data)
        within = self._within(store.length)
        if self.verify == "full":
            a, b = self.frames or (0, store.length)
            read_through(ctx, store.verify, a, b)
        if self.model.periodic == "poles":
            self._check_poles(store)
        windows = archive(store, self.window, within, self.time_steps)
        data = windows
        if self.augmentation is not None:
            data = mixed(windows, self.augmentation, self.seed, 1024)
        elif getattr(self.loss, "rotation", False):
            from ..training.data import RotatedPairs

            data = RotatedPairs(windows, self.seed)
        if shift := getattr(self.loss, "shift", None):
            from ..training.data import Shifted

            self._check_shift(shift, store)
            data = Shifted(data, shift, self.seed)
        held = self.held and archive(store, self.window, self.held, self.time_steps)
        learner = self._learner(store, held)
        return fit(self, ctx, learner, data, held)

    def join(self, ctx: Context, parts: list[Path]) -> dict[str, str]:
        from .train_posterior import join, told

        return join(self, ctx, parts) if self.seeds > 1 else told(parts[0])

    def _check_poles(self, store: Any) -> None:
        r"""The first axis is latitude and reaches the poles (latents know of no latitude)."""
        import numpy as np

        names = [a.get("standard_name") for a in store.coord_attrs.values()]
        if "latitude" not in names:
            return
        axis = names.index("latitude")
        lat = np.asarray(list(store.coords.values())[axis], float)
        a, b = sorted((lat[0], lat[-1]))
        if axis or max(90 + a, 90 - b) > 0.75 * np.abs(np.diff(lat)).max():
            raise BadInput(
                f"'model.periodic: poles' of latitudes from {a:g} to {b:g}",
                store.folder,
                "Write 'periodic: true', or import all rows from pole to pole.",
            )

    def _check_shift(self, shift: tuple[int, ...], store: Any) -> None:
        r"""Shifts go along axes that close on themselves, in whole parts of them, without land."""
        periodic, n = self.model.periodic, len(store.grid)
        closed = [periodic == "both" or (periodic and k == n - 1) for k in range(n)]
        fits = len(shift) == n and all(
            not step or (around and points % step == 0)
            for step, around, points in zip(shift, closed, store.grid, strict=True)
        )
        if not fits:
            raise BadInput(
                f"'loss.shift' {list(shift)} of a grid of {list(store.grid)} points",
                store.folder,
                "Give a number for each axis: 0, or a divisor of its points where 'model.periodic'"
                f" says that it closes on itself, here axes {[k for k in range(n) if closed[k]]}.",
            )
        land = store.mask is not None and not store.mask.all()
        if land or getattr(self.model, "static", ()):
            what = "the mask tells" if land else "'model.static' fields tell"
            raise BadInput(
                f"'loss.shift' where {what} one place from another",
                store.folder,
                "Leave it out.",
            )

    def _within(self, length: int) -> tuple[int, int]:
        r"""Training frames without the held ones, which stand at one end."""
        a, b = self.frames or (0, length)
        if b > length:
            raise BadInput(f"'frames' ends at {b} but the store has {length}", self.data)
        if self.held is None:
            return a, b
        lo, hi = self.held
        if lo <= a < hi < b:
            return hi, b
        if a < lo < b <= hi:
            return a, lo
        raise BadInput(
            f"'held' {list(self.held)} is not at one end of 'frames' {[a, b]}", self.data
        )

    def _learner(self, store: Any, held: Any):
        C, grid = len(store.channels), list(store.grid)
        fields = self.model.build_fields()
        told = store.context([0])
        told = 0 if told is None else told.shape[1]
        if fields.get("context", 0) > told:
            raise BadInput(
                f"'model.context' is {fields['context']}, but the frames tell {told} numbers of "
                "their dates",
                store.folder,
                f"Write model: {{context: {told}}}.",
            )
        if self.model.name == "autoencoder":
            from ..training.autoencoder import AutoencoderLearner
            from .training_data import latitude_longitude, static_fields

            try:
                lat, lon = latitude_longitude(store)
            except (
                BadInput
            ):  # the decoder's error is a field on the sphere: elsewhere it is not made
                lat = lon = None
            return AutoencoderLearner(
                {**fields, "channels": C, "grid": grid},
                self.loss,
                weights=importance(store),
                seed=self.seed,
                held=held,
                lat=lat,
                lon=lon,
                static=static_fields(store, self.model.static),
            )
        from ..training.diffusion import DiffusionLearner

        seen = self._observed(store)
        return DiffusionLearner(
            {
                **fields,
                "channels": C,
                "grid": grid,
                "observed": len(seen),
                "timed": self.time_steps != (1,),
                **({"conditioned": seen} if seen and self.conditioning.gaussian else {}),
            },
            self.loss,
            seed=self.seed,
            conditioning=self.conditioning,
            observed=seen,
            time_steps=self.time_steps,
        )

    def _observed(self, store: Any) -> list[int]:
        r"""The channels that condition a denoiser."""
        if self.conditioning is None:
            return []
        names = list(store.channels)
        for name in self.conditioning.channels or []:
            if name not in names:
                raise BadInput(
                    f"'conditioning.channels': no channel '{name}'",
                    store.folder,
                    nearest(name, names),
                )
        return [names.index(n) for n in self.conditioning.channels or names]

    def figures(self, study: Study, name: str) -> dict[str, str]:
        t = self.training
        out = {"model": self.model.name, "steps": str(t.steps), "batch": str(t.batch)}
        return out | ({"seeds": str(self.seeds)} if self.seeds > 1 else {})


def fit(
    job: Train, ctx: Context, learner: Any, data: Any, held: Any, nth: int | None = None
) -> dict[str, str]:
    r"""Trains a learner by the one loop; what every model's job ends in.

    Arguments:
        nth: Which of the job's `seeds` it is of, in a folder of its own; by default the only one.

    Returns:
        The digest of the exported model.
    """
    from ..training import train

    folder = ctx.folder if nth is None else ctx.folder / "seeds" / str(nth)
    of = "" if nth is None else f", seed {nth + 1} of {job.seeds}"
    ctx.progress.begin(f"training the {job.model.name.replace('_', ' ')}{of}")
    figures = train(
        learner,
        data,
        job.training.model_copy(update={"seed": job.seed + (nth or 0)}),
        world=ctx.world,
        folder=folder,
        progress=ctx.progress,
        stop=ctx.stop,
        validation=held,
        attempt=ctx.attempt,
    )
    ctx.say("  ".join(f"{k} {v:.4g}" for k, v in figures.items() if isinstance(v, float)))
    return {"model": digest(folder)}


def importance(store: Any):
    r"""Weights of squared standardised errors: area times variance, so that the loss is in
    physical units, with shape (C, *grid) and mean 1. Polar rows keep a tenth of the mean; land
    and what lies below a floor have none."""
    import numpy as np

    w = np.broadcast_to(store.weights(), (len(store.channels), *store.grid)).copy()
    valid = w > 0 if store.mask is None else np.broadcast_to(store.mask, w.shape)
    if store.below is not None:
        valid = valid & ~store.below
    w = np.where(valid, np.maximum(w, 0.1), 0.0)
    if store.statistics is not None:
        w = w * np.square(store.statistics.std, dtype=np.float64).mean(0)
    # Channels count alike whatever their units.
    return w / w.reshape(len(w), -1).mean(1).reshape(-1, *[1] * (w.ndim - 1))


def _span(study: Study, data: str) -> tuple[int, int] | None:
    r"""Frames of a segment of the store another job will make, where its fields say so."""
    job = study.jobs.get(data)
    if job is not None and job.kind == "encode" and job.window is not None:
        return 0, job.window
    return None


def digest(folder: Any) -> str:
    r"""The digest of an exported model."""
    from ..io.atomic import digest_bytes, roll

    names = ["weights.safetensors", "model.json", "decoder_error.h5"]
    return roll(digest_bytes((folder / n).read_bytes()) for n in names if (folder / n).exists())
