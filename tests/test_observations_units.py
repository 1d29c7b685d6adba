r"""Units: every spelling is one number, that of pint; what cannot be converted is refused."""

import numpy as np
import pytest

from hpcinv.errors import BadInput
from hpcinv.observations.units import conversion

# What a file writes, what a trajectory has, and both as pint spells them.
PAIRS = [
    ("m s**-1", "km/h", "m/s", "km/h"),
    ("M/S", "m.s-1", "m/s", "m/s"),
    ("m s⁻¹", "knots", "m/s", "knot"),
    ("cm s^-1", "kt", "cm/s", "knot"),
    ("mm day-1", "kg m-2 s-1 m3 kg-1", "mm/day", "m/s"),
    ("W m**-2", "mW cm-2", "W/m^2", "mW/cm^2"),
    ("J/(kg K)", "kJ kg-1 K-1", "J/kg/kelvin", "kJ/kg/kelvin"),
    ("micromoles per kilogram", "mol kg-1", "umol/kg", "mol/kg"),
    ("µmol L-1", "mmol m-3", "umol/l", "mmol/m^3"),
    ("mg/l", "kg m-3", "mg/l", "kg/m^3"),
    ("g/kg", "1", "g/kg", "dimensionless"),
    ("1e-3", "%", "1e-3 dimensionless", "percent"),
    ("10^-5 s-1", "h-1", "1e-5/s", "1/hour"),
    ("hectopascals", "dbar", "hPa", "dbar"),
    ("HPA", "inHg", "hPa", "inHg"),
    ("m2 s-2", "J kg-1", "m^2/s^2", "J/kg"),
    ("erg cm-2 s-1 micron-1", "W m-3", "erg/cm^2/s/micron", "W/m^3"),
    ("Jy", "W m-2 Hz-1", "1e-26 W/m^2/Hz", "W/m^2/Hz"),
    ("ft", "gpm", "ft", "m"),
    ("deg", "1", "degree", "dimensionless"),
]
AFFINE = [("degrees celsius", "K"), ("degF", "degC"), ("°C", "degrees_fahrenheit"), ("K", "degC")]
PINT = {"K": "kelvin", "degrees celsius": "degC", "°C": "degC", "degrees_fahrenheit": "degF"}


def test_conversions_are_those_of_pint():
    pint = pytest.importorskip("pint")
    u = pint.UnitRegistry(autoconvert_offset_to_baseunit=True)
    for mine, to, theirs, target in PAIRS:
        factor, offset = conversion(mine, to)
        want = (3.7 * u.parse_expression(theirs)).to(target).m
        assert factor * 3.7 + offset == pytest.approx(want, rel=1e-6), mine
        back = conversion(to, mine)
        assert back[0] * factor == pytest.approx(1, rel=1e-12) and offset == 0
    for mine, to in AFFINE:
        factor, offset = conversion(mine, to)
        want = u.Quantity(np.array([-40.0, 21.5]), PINT.get(mine, mine)).to(PINT.get(to, to)).m
        assert factor * np.array([-40.0, 21.5]) + offset == pytest.approx(want, abs=1e-9), mine


def test_what_cannot_be_converted_is_refused():
    for unit, to, said in (
        ("Pa", "K", "'Pa' is a pressure, 'K' a temperature. Give values in 'K'"),
        ("K", "m s-1", "'K' is a temperature, 'm s-1' a speed"),
        ("mol m-2", "kg m-2", "'mol m-2' is a quantity in m-2 mol"),
        ("Kelvins", "K", "the unit 'Kelvins' is not known. Did you mean 'kelvin'"),
        ("furlong h-1", "m s-1", "'furlong h-1' is not known .what is 'furlong'"),
        ("m s^0.5", "m s-1", "is not known"),
        ("J/(kg K", "1", "is not known"),
        ("(0 - 1)", "1", "is not known"),
        ("dBZ", "1", "is not known"),
    ):
        with pytest.raises(BadInput, match=said.replace("(", r"\(")):
            conversion(unit, to, "obs.csv, row 3")
    # A number on the practical scale is told as it is, and is no mass of salt.
    assert conversion("psu", "1") == (1.0, 0.0)
    with pytest.raises(BadInput, match="salinity on the practical scale"):
        conversion("psu", "g kg-1")
