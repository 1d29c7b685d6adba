r"""The assimilation engine: posterior trajectories from a window denoiser and observations.

Nothing heavy is imported here: `hpcinv plan` reads the settings of `config` without torch.
"""

from __future__ import annotations

from importlib import import_module

# Public name -> the module it lives in.
_HOMES = {
    "Checkpoint": "checkpoint",
    "Coarse": "composition",
    "Diverged": "divergence",
    "GuidanceConfig": "config",
    "Law": "pointwise",
    "Likelihood": "likelihood",
    "MarkovCovariance": "markov",
    "OperatorLikelihood": "operator_likelihood",
    "PointLikelihood": "point_likelihood",
    "PointwiseLikelihood": "pointwise",
    "Result": "engine",
    "SamplerConfig": "config",
    "StationaryGaussian": "gaussian",
    "analysis_and_forecast": "modes",
    "filtering": "modes",
    "forecast": "modes",
    "sample": "engine",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
