r"""Conversion between the units that observations of air and water come in."""

from __future__ import annotations

__all__ = ["conversion"]

from ..errors import BadInput, nearest

# unit: (dimension, factor, offset), value in the dimension's base unit = factor · value + offset
UNITS = {
    "1": ("none", 1.0, 0.0),
    "dimensionless": ("none", 1.0, 0.0),
    "psu": ("none", 1.0, 0.0),
    "%": ("none", 0.01, 0.0),
    "percent": ("none", 0.01, 0.0),
    "g kg-1": ("none", 1e-3, 0.0),
    "kg kg-1": ("none", 1.0, 0.0),
    "K": ("temperature", 1.0, 0.0),
    "kelvin": ("temperature", 1.0, 0.0),
    "degC": ("temperature", 1.0, 273.15),
    "celsius": ("temperature", 1.0, 273.15),
    "degrees_celsius": ("temperature", 1.0, 273.15),
    "degrees celsius": ("temperature", 1.0, 273.15),
    "C": ("temperature", 1.0, 273.15),
    "degF": ("temperature", 5 / 9, 459.67 * 5 / 9),
    "m s-1": ("speed", 1.0, 0.0),
    "km h-1": ("speed", 1 / 3.6, 0.0),
    "knot": ("speed", 1852 / 3600, 0.0),
    "knots": ("speed", 1852 / 3600, 0.0),
    "kt": ("speed", 1852 / 3600, 0.0),
    "Pa": ("pressure", 1.0, 0.0),
    "hPa": ("pressure", 100.0, 0.0),
    "mb": ("pressure", 100.0, 0.0),
    "mbar": ("pressure", 100.0, 0.0),
    "millibars": ("pressure", 100.0, 0.0),
    "inHg": ("pressure", 3386.389, 0.0),
    "m": ("length", 1.0, 0.0),
    "mm": ("length", 1e-3, 0.0),
    "cm": ("length", 1e-2, 0.0),
    "km": ("length", 1e3, 0.0),
    "ft": ("length", 0.3048, 0.0),
    "dbar": ("pressure", 1e4, 0.0),
    "decibars": ("pressure", 1e4, 0.0),
    "hectopascals": ("pressure", 100.0, 0.0),
    "meters": ("length", 1.0, 0.0),
    "umol kg-1": ("amount per mass", 1.0, 0.0),
    "micromoles per kilogram": ("amount per mass", 1.0, 0.0),
    "kg m-2": ("column", 1.0, 0.0),
    "g m-2": ("column", 1e-3, 0.0),
    "mmol m-3": ("concentration", 1.0, 0.0),
    "umol L-1": ("concentration", 1.0, 0.0),
    "ml L-1": ("concentration", 44.6596, 0.0),  # of oxygen, at 0 degC and one atmosphere
}
SAME = {
    "m/s": "m s-1",
    "meters/second": "m s-1",
    "km/h": "km h-1",
    "g/kg": "g kg-1",
    "kg/kg": "kg kg-1",
    "umol/kg": "umol kg-1",
    "umol/l": "umol L-1",
    "ml/l": "ml L-1",
    "mmol/m3": "mmol m-3",
    "": "1",
}
# Practical salinity has no unit, and is near grams of salt in a kilogram: CF's 1e-3.
SALINITY = {"psu", "1e-3"}


def conversion(unit: str, to: str, where: object = None) -> tuple[float, float]:
    r"""Factor and offset that turn a value of one unit into another: `factor * x + offset`.

    Standard deviations take the factor alone.

    Raises:
        BadInput: If a unit is unknown or the two measure different things.
    """
    if unit == to or {unit.strip().lower(), to} <= SALINITY:
        return 1.0, 0.0
    found = []
    for name in (unit, to):
        key = _known(name)
        if key is None:
            raise BadInput(f"the unit '{name}' is not known", where, nearest(name, UNITS))
        found.append(UNITS[key])
    (a, f, o), (b, g, p) = found
    if a != b:
        raise BadInput(f"'{unit}' is a {a}, '{to}' a {b}", where, f"Give values in '{to}'.")
    return f / g, (o - p) / g


def _known(name: str) -> str | None:
    text = name.strip()
    text = SAME.get(text, SAME.get(text.lower(), text))
    if text in UNITS:
        return text
    folded = {k.lower(): k for k in UNITS}
    return folded.get(text.lower())
