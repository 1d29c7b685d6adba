r"""Conversion between units, as files of air, water and spectra write them.

A unit is a product of powers of known ones, in any of the usual spellings: `m s-1`, `m s**-1`,
`m/s`, `m.s^-1`, `W/(m2 sr)`, `micromoles per kilogram`, `1e-3 kg m-3`. The grammar is that of
UDUNITS: products and quotients from left to right, prefixes of SI, and degrees of temperature that
have a zero of their own where they stand alone.
"""

from __future__ import annotations

__all__ = ["conversion"]

import re
from functools import lru_cache
from typing import NamedTuple

from ..errors import BadInput, nearest

NAMES = ("kg", "m", "s", "K", "mol", "A", "cd", "psu")  # what dimensions count, in this order


class Unit(NamedTuple):
    r"""A value in base units is factor · value + offset."""

    factor: float
    powers: tuple[int, ...]
    offset: float = 0.0


ONE = (0,) * len(NAMES)


def _of(**powers: int) -> tuple[int, ...]:
    return tuple(powers.get(n, 0) for n in NAMES)


PREFIXES = {
    "da": 1e1, "h": 1e2, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "d": 1e-1, "c": 1e-2, "m": 1e-3,
    "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "n": 1e-9, "p": 1e-12,
}  # fmt: skip
LONG = {
    "hecto": 1e2, "kilo": 1e3, "mega": 1e6, "giga": 1e9, "deci": 1e-1, "centi": 1e-2,
    "milli": 1e-3, "micro": 1e-6, "nano": 1e-9, "pico": 1e-12,
}  # fmt: skip
FORCE, ENERGY = _of(kg=1, m=1, s=-2), _of(kg=1, m=2, s=-2)
PRESSURE = _of(kg=1, m=-1, s=-2)
# Those that take a prefix: symbol, name, what it is.
SCALED = {
    ("g", "gram"): Unit(1e-3, _of(kg=1)),
    ("m", "meter", "metre"): Unit(1.0, _of(m=1)),
    ("s", "second"): Unit(1.0, _of(s=1)),
    ("K", "kelvin"): Unit(1.0, _of(K=1)),
    ("mol", "mole"): Unit(1.0, _of(mol=1)),
    ("A", "ampere"): Unit(1.0, _of(A=1)),
    ("cd", "candela"): Unit(1.0, _of(cd=1)),
    ("N", "newton"): Unit(1.0, FORCE),
    ("Pa", "pascal"): Unit(1.0, PRESSURE),
    ("bar",): Unit(1e5, PRESSURE),
    ("J", "joule"): Unit(1.0, ENERGY),
    ("W", "watt"): Unit(1.0, _of(kg=1, m=2, s=-3)),
    ("Hz", "hertz"): Unit(1.0, _of(s=-1)),
    ("V", "volt"): Unit(1.0, _of(kg=1, m=2, s=-3, A=-1)),
    ("L", "l", "liter", "litre"): Unit(1e-3, _of(m=3)),
    ("Jy", "jansky"): Unit(1e-26, _of(kg=1, s=-2)),
}
ALONE = {
    ("1", "dimensionless", "rad", "radian", "sr", "steradian"): Unit(1.0, ONE),
    ("%", "percent"): Unit(1e-2, ONE),
    ("ppm", "ppmv"): Unit(1e-6, ONE),
    ("ppb", "ppbv"): Unit(1e-9, ONE),
    ("deg", "degree", "arc_degree"): Unit(0.017453292519943295, ONE),
    ("psu", "PSU"): Unit(1.0, _of(psu=1)),
    (
        "degC",
        "celsius",
        "degrees_celsius",
        "degree_celsius",
        "deg_C",
        "degree_C",
        "degrees_C",
        "C",
        "°C",
    ): Unit(1.0, _of(K=1), 273.15),
    ("degF", "fahrenheit", "degrees_fahrenheit", "degree_fahrenheit", "deg_F", "°F"): Unit(
        5 / 9, _of(K=1), 459.67 * 5 / 9
    ),
    ("degrees_kelvin", "degree_kelvin", "degK", "deg_K"): Unit(1.0, _of(K=1)),
    ("min", "minute"): Unit(60.0, _of(s=1)),
    ("h", "hr", "hour"): Unit(3600.0, _of(s=1)),
    ("d", "day"): Unit(86400.0, _of(s=1)),
    ("kt", "kts", "knot"): Unit(1852 / 3600, _of(m=1, s=-1)),
    ("mph",): Unit(1609.344 / 3600, _of(m=1, s=-1)),
    ("kph",): Unit(1 / 3.6, _of(m=1, s=-1)),
    ("ft", "foot", "feet"): Unit(0.3048, _of(m=1)),
    ("in", "inch", "inches"): Unit(0.0254, _of(m=1)),
    ("mi", "mile"): Unit(1609.344, _of(m=1)),
    ("nmi", "nautical_mile"): Unit(1852.0, _of(m=1)),
    ("micron",): Unit(1e-6, _of(m=1)),
    ("angstrom",): Unit(1e-10, _of(m=1)),
    ("gpm",): Unit(1.0, _of(m=1)),
    ("mb", "millibar"): Unit(100.0, PRESSURE),
    ("atm", "atmosphere"): Unit(101325.0, PRESSURE),
    ("inHg",): Unit(3386.389, PRESSURE),
    ("mmHg", "torr"): Unit(101325 / 760, PRESSURE),
    ("erg",): Unit(1e-7, ENERGY),
    ("dyn", "dyne"): Unit(1e-5, FORCE),
    ("tonne",): Unit(1e3, _of(kg=1)),
    ("DU", "dobson"): Unit(4.4615e-4, _of(mol=1, m=-2)),
    ("Sv", "sverdrup"): Unit(1e6, _of(m=3, s=-1)),
}  # fmt: skip
KNOWN = {s: u for names, u in ALONE.items() for s in names}
BRIEF = {s: u for names, u in SCALED.items() for s in names if s == names[0] or len(s) == 1}
SPELT = {s: u for names, u in SCALED.items() for s in names if len(s) > 2}
# Capitals alone tell no milli from a mega: of those with a prefix only the common ones.
FOLDED = {s.lower(): s for s in ("hPa", "kPa", "dbar", "mbar", "kg", "km", "cm", "mm", *KNOWN)} | {
    s.lower(): s for s in (*BRIEF, *SPELT) if s not in ("A", "l")
}
ADVISED = ("K", "degC", "m s-1", "knots", "Pa", "hPa", "kg kg-1", "g kg-1", "kelvin", "%", "1")
WORDS = {"degrees celsius": "degC", "degree celsius": "degC", "degrees c": "degC",
         "deg c": "degC", "degrees fahrenheit": "degF", "deg f": "degF",
         "degrees kelvin": "K"}  # fmt: skip
TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|(?P<name>[^\W\d]+|[%°]\w*)"
    r"|(?P<power>\^|\*\*)|(?P<times>[*·.])|(?P<over>/)|(?P<open>\()|(?P<close>\))"
    r"|(?P<minus>[-+⁻]))"
)
# Practical salinity has no unit, and is near grams of salt in a kilogram: CF's 1e-3.
SALINITY = {"psu", "1e-3"}
# A millilitre of oxygen in a litre, at 0 degC and one atmosphere.
OXYGEN = Unit(44.6596e-3, _of(mol=1, m=-3))
RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")


def conversion(unit: str, to: str, where: object = None) -> tuple[float, float]:
    r"""Factor and offset that turn a value of one unit into another: `factor * x + offset`.

    Standard deviations take the factor alone.

    Raises:
        BadInput: If a unit is unknown or the two measure different things.
    """
    if unit == to or {unit.strip().lower(), to} <= SALINITY:
        return 1.0, 0.0
    b = _known(to, where)
    of_oxygen = b.powers == OXYGEN.powers and unit.strip().lower() in ("ml/l", "ml l-1")
    a = OXYGEN if of_oxygen else _known(unit, where)
    if a.powers != b.powers:
        # A salinity on the practical scale is a number; it is no mass of salt over one of water.
        pure = Unit(1.0, ONE)
        if {a, b} == {pure, KNOWN["psu"]}:
            return 1.0, 0.0
        raise BadInput(
            f"'{unit}' is {_kind(a)}, '{to}' {_kind(b)}", where, f"Give values in '{to}'."
        )
    return a.factor / b.factor, (a.offset - b.offset) / b.factor


KINDS = {
    ONE: "a number", _of(K=1): "a temperature", PRESSURE: "a pressure", _of(m=1): "a length",
    _of(m=1, s=-1): "a speed", _of(kg=1, m=-2): "a column", _of(mol=1, m=-3): "a concentration",
    _of(mol=1, kg=-1): "an amount per mass", _of(s=1): "a time", _of(kg=1, m=-3): "a density",
    _of(kg=1, s=-3): "a flux", _of(psu=1): "a salinity on the practical scale",
    _of(m=2, s=-2): "a geopotential",
}  # fmt: skip


def _kind(u: Unit) -> str:
    if u.powers in KINDS:
        return KINDS[u.powers]
    parts = (f"{n}{p if p != 1 else ''}" for n, p in zip(NAMES, u.powers, strict=True) if p)
    return f"a quantity in {' '.join(parts)}"


def _known(name: str, where: object) -> Unit:
    try:
        return parse(name)
    except ValueError as e:
        part = f" (what is '{e}'?)" if str(e) not in ("", name.strip()) else ""
        raise BadInput(
            f"the unit '{name}' is not known{part}", where, nearest(name, ADVISED)
        ) from None


@lru_cache(maxsize=1000)
def parse(text: str) -> Unit:
    r"""What a unit is. Raises `ValueError` with what of it is not known."""
    plain = " ".join(text.split())
    plain = WORDS.get(plain.lower(), plain)
    if not plain:
        return Unit(1.0, ONE)
    if _symbol(plain) is not None:
        return _symbol(plain)
    if plain.lower() in ("none", "unitless", "-"):
        return Unit(1.0, ONE)
    tokens, at = [], 0
    plain = re.sub(r"\bper\b", "/", plain)
    plain = re.sub(r"(?<=[^\W\d])(⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)", lambda m: m[1].translate(RAISED), plain)
    while at < len(plain):
        m = TOKEN.match(plain, at)
        if m is None or m.end() == at:
            raise ValueError(plain[at:].strip())
        tokens.append((m.lastgroup, m[m.lastgroup]))
        at = m.end()
    return _Reader(tokens).whole()


class _Reader:
    r"""Products, quotients and powers of tokens, from left to right."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens, self._at = tokens, 0

    def _next(self, *kinds: str) -> str | None:
        if self._at < len(self._tokens) and self._tokens[self._at][0] in kinds:
            self._at += 1
            return self._tokens[self._at - 1][1]
        return None

    def whole(self) -> Unit:
        found = self._product()
        if self._at < len(self._tokens):
            raise ValueError(self._tokens[self._at][1])
        return found

    def _product(self) -> Unit:
        out = self._power()
        while self._at < len(self._tokens) and self._tokens[self._at][0] != "close":
            sign = -1 if self._next("over") else 1
            if sign > 0:
                self._next("times")
            u = self._power()
            powers = tuple(p + sign * q for p, q in zip(out.powers, u.powers, strict=True))
            out = Unit(out.factor * u.factor**sign, powers)
        return out

    def _power(self) -> Unit:
        if self._next("open"):
            u = self._product()
            if self._next("close") is None:
                raise ValueError("(")
            plain = False
        elif (number := self._next("number")) is not None:
            u, plain = Unit(float(number), ONE), True
            if not u.factor > 0:
                raise ValueError(number)
        else:
            name = self._next("name")
            u = None if name is None else _symbol(name)
            if u is None:
                raise ValueError(name or "")
            plain = False
        marked = self._next("power") is not None
        n = self._exponent(marked, plain)
        if n is None:
            return u
        return Unit(u.factor**n, tuple(p * n for p in u.powers))

    def _exponent(self, marked: bool, plain: bool) -> int | None:
        r"""A whole number after a unit, or after a mark; 10^3 and 10**3 need the mark."""
        start = self._at
        if marked or not plain:
            bracket = marked and self._next("open") is not None
            sign = -1 if self._next("minus") in ("-", "⁻") else 1
            digits = self._next("number")
            if digits is not None and digits.isdigit():
                if bracket and self._next("close") is None:
                    raise ValueError("(")
                return sign * int(digits)
        self._at = start
        if marked:
            raise ValueError("^")
        return None


def _symbol(name: str) -> Unit | None:
    r"""A unit of one word, perhaps with a prefix or in the plural."""
    for word in (name, name[:-1] if name.endswith("s") and len(name) > 3 else name):
        for known in (KNOWN, BRIEF, SPELT):
            if word in known:
                return known[word]
        for prefixes, known in ((PREFIXES, BRIEF), (LONG, SPELT)):
            for prefix, factor in prefixes.items():
                rest = known.get(word[len(prefix) :]) if word.startswith(prefix) else None
                if rest is not None:
                    return Unit(rest.factor * factor, rest.powers)
    folded = FOLDED.get(name.lower())
    return _symbol(folded) if folded not in (None, name) else None
