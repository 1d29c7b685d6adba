r"""Networks, and the folder format that every job reads them from.

Importing this package loads no torch: the geometry of :mod:`hpcinv.models.sphere` needs none.
"""

from typing import Any

__all__ = ["build", "load", "save"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from hpcinv.models import export

        return getattr(export, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
