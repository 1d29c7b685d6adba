r"""Networks, and the folder format that every job reads them from."""

from hpcinv.models.export import build, load, save

__all__ = ["build", "load", "save"]
