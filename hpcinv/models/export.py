r"""Building models from a mapping, and their export: `weights.safetensors` beside `model.json`.

The export is what a training job leaves for the others. It holds nothing that is run when read:
no pickle, no DeepSpeed.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from hpcinv.errors import BadInput, nearest
from hpcinv.io.atomic import digest_bytes, sync, write_bytes, write_json

WEIGHTS, DESCRIPTION = "weights.safetensors", "model.json"


def registry() -> dict[str, Callable[..., nn.Module]]:
    r"""The models that :func:`build` knows, by name."""
    from hpcinv.models.autoencoder import Autoencoder
    from hpcinv.models.posterior_flow import PosteriorFlow
    from hpcinv.models.trajectory_denoiser import TrajectoryDenoiser

    return {
        "autoencoder": Autoencoder,
        "posterior": PosteriorFlow,
        "trajectory_denoiser": TrajectoryDenoiser,
    }


def build(config: Mapping[str, Any], seed: int = 0) -> nn.Module:
    r"""Builds a model.

    Arguments:
        config: The model's name under `name`, and its fields.
        seed: The seed of the initial weights: they are a function of it and of the fields.

    Returns:
        The module, with freshly initialised weights.

    Raises:
        BadInput: If no model has this name, or it has no such field, or a field's value is
            impossible.
    """
    fields = dict(config)
    name = fields.pop("name", None)
    known = registry()
    if name not in known:
        raise BadInput(f"there is no model named {name!r}", instead=nearest(str(name), known))
    names = inspect.signature(known[name].__init__).parameters
    for key in fields:
        if key not in names:
            raise BadInput(
                f"the model {name!r} has no field {key!r}",
                instead=nearest(key, [n for n in names if n != "self"]),
            )
    try:
        # Layers initialise themselves from torch's global generator: lend it a keyed state.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return known[name](**fields)
    except (TypeError, ValueError) as error:
        raise BadInput(f"the model {name!r} cannot be built: {error}", where="model") from error


def save(
    folder: Path | str, module: nn.Module, config: Mapping[str, Any], extra: Mapping[str, Any]
) -> None:
    r"""Writes a model, atomically: `model.json` last, as it names the weights' digest.

    Arguments:
        folder: The folder, made when missing.
        module: The module.
        config: What :func:`build` made it from.
        extra: Anything else JSON can hold, for people and for the jobs that read the model.
    """
    from safetensors.torch import save as to_bytes

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    data = to_bytes(state)
    write_bytes(folder / WEIGHTS, data)
    description = {
        "config": json.loads(json.dumps(dict(config))),
        "weights": WEIGHTS,
        "digest": digest_bytes(data),
        "parameters": sum(p.numel() for p in module.parameters()),
        "extra": dict(extra),
    }
    write_json(folder / DESCRIPTION, description)
    sync(folder)


def describe(folder: Path | str) -> dict[str, Any]:
    r"""Reads `model.json`.

    Raises:
        BadInput: If there is no finished model in the folder.
    """
    path = Path(folder) / DESCRIPTION
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise BadInput(
            "no trained model here", where=folder, instead="Run the training job first."
        ) from error
    except ValueError as error:
        raise BadInput(f"not a model description ({error})", where=path) from error


def load(folder: Path | str) -> nn.Module:
    r"""Reads a model that :func:`save` wrote.

    Arguments:
        folder: The folder.

    Returns:
        The module on the CPU, in evaluation mode, without gradients.

    Raises:
        BadInput: If the model is missing, its weights are not those that were written, or they
            do not fit its description.
    """
    from safetensors.torch import load as from_bytes

    folder = Path(folder)
    description = describe(folder)
    path = folder / description["weights"]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"weights cannot be read ({error.strerror})", where=path) from error
    if digest_bytes(data) != description["digest"]:
        raise BadInput(
            "weights differ from the digest in model.json",
            where=path,
            instead=f"The file has {os.path.getsize(path)} bytes; run the training job again.",
        )
    module = build(description["config"])
    try:
        module.load_state_dict(from_bytes(data))
    except RuntimeError as error:
        raise BadInput(f"weights do not fit the model: {error}", where=path) from error
    module.eval()
    return module.requires_grad_(False)
