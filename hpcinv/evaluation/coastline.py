r"""Coastlines of the world at 1:110 million, from Natural Earth (public domain).

The file beside this module holds their polylines, without the edges that close polygons at the
date line and the pole.
"""

from __future__ import annotations

__all__ = ["coastlines"]

import json
from functools import cache
from pathlib import Path

import numpy as np


@cache
def coastlines() -> tuple[np.ndarray, ...]:
    r"""Polylines of (longitude, latitude) in degrees, each with shape :math:`(n, 2)`."""
    text = Path(__file__).with_name("coastline.json").read_text()
    return tuple(
        np.cumsum(np.reshape(line, (-1, 2)), axis=0) / 100.0 for line in json.loads(text)["lines"]
    )
