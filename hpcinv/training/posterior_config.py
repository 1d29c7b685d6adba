r"""Typed fields of a posterior of parameters, without any heavy import."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hpcinv.training.config import _Fields


class EmbeddingConfig(_Fields):
    r"""The network that makes a vector of an observation."""

    name: Literal["none", "mlp", "resmlp", "conv1d", "conv2d", "set", "transformer"] = "resmlp"
    features: Annotated[int, Field(gt=0, description="numbers it gives")] = 64
    width: Annotated[int, Field(gt=0, description="features inside")] = 64
    depth: Annotated[int, Field(ge=0, description="hidden layers, blocks or stages")] = 2
    heads: Annotated[int, Field(gt=0, description="attention heads of a transformer")] = 4
    dropout: Annotated[float, Field(ge=0, lt=1, description="features left out in training")] = 0.0

    @model_validator(mode="after")
    def _heads(self) -> EmbeddingConfig:
        if self.name == "transformer" and self.width % self.heads:
            raise ValueError(f"a width of {self.width} does not divide among {self.heads} heads")
        return self


class PosteriorConfig(_Fields):
    r"""A posterior of parameters: an ensemble of normalising flows."""

    name: Literal["posterior"] = "posterior"
    flows: Annotated[
        list[Literal["nsf", "maf", "naf"]],
        Field(
            min_length=1,
            description="the ensemble's members: splines, affine maps, monotone networks; their "
            "weights are fitted on withheld simulations",
        ),
    ] = ["nsf", "nsf", "maf", "maf"]  # noqa: RUF012
    transforms: Annotated[int, Field(gt=0, description="transformations of a flow")] = 3
    width: Annotated[int, Field(gt=0, description="hidden features inside the flow")] = 64
    bins: Annotated[int, Field(ge=2, description="bins of a spline")] = 8
    coupling: Annotated[
        bool, Field(description="coupling layers: faster samples, less flexible")
    ] = False
    embedding: EmbeddingConfig = EmbeddingConfig()


class PosteriorLoss(_Fields):
    r"""What is drawn anew each time a simulation is seen."""

    noise: Annotated[bool, Field(description="add the simulator's noise model to x")] = True
    symmetries: Annotated[
        bool, Field(description="draw another pair as likely, where the simulator tells how")
    ] = True
    missing: Annotated[
        float,
        Field(ge=0, lt=1, description="largest share of x hidden from the network, 0 for none"),
    ] = 0.0
    validation: Annotated[
        float, Field(gt=0, lt=1, description="share of the simulations kept for validation")
    ] = 0.05


# Fields of training that a posterior's job need not write. `steps` is a limit: training ends when
# validation gets no better.
POSTERIOR_TRAINING = {
    "steps": 20_000,
    "batch": 256,
    "schedule": "plateau",
    "patience": 4,
    "validate_every": 50,
    "validation_samples": 4096,
    "learning_rate": 1e-3,
    "weight_decay": 1e-2,
    "ema": 0.99,
    "log_every": 50,
}
