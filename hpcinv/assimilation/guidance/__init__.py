r"""How observations enter the mean of a denoiser call."""

from .estimate import Estimate, Guidance

__all__ = ["Estimate", "Guidance"]
