r"""A real spectrum: three columns of text, wavelength, flux and error, whose units are declared.

    # wavelength: um
    # flux: W m-2 um-1
    1.1425  2.31e-17  4.0e-19
    ...

Errors are in the unit of the flux. A fourth column, if there is one, is the width of a channel
in the unit of the wavelength.
"""

from __future__ import annotations

__all__ = ["Bins", "ObservedSpectrum", "binning", "read_spectrum"]

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import BadInput, nearest
from .opacity import KTables

C = 299792458.0
LENGTHS = {"um": 1.0, "micron": 1.0, "nm": 1e-3, "angstrom": 1e-4, "m": 1e6}
# To W m⁻² µm⁻¹; a flux density by frequency also needs c / lambda².
FLUXES = {"W m-2 um-1": 1.0, "W m-2 m-1": 1e-6, "W m-2 nm-1": 1e3, "erg s-1 cm-2 um-1": 1e-3,
          "erg s-1 cm-2 angstrom-1": 10.0}  # fmt: skip
BY_FREQUENCY = {"Jy": 1e-26, "mJy": 1e-29, "uJy": 1e-32, "W m-2 Hz-1": 1.0}


@dataclass(frozen=True)
class ObservedSpectrum:
    r"""C channels: wavelength in µm, ascending; flux and error in W m⁻² µm⁻¹; width in µm."""

    wavelength: np.ndarray
    flux: np.ndarray
    error: np.ndarray
    width: np.ndarray | None


@dataclass(frozen=True)
class Bins:
    r"""W spectral bins: centres in µm, ascending, and their W + 1 edges."""

    wavelength: np.ndarray
    edges: np.ndarray


def read_spectrum(path: str | Path) -> ObservedSpectrum:
    r"""Reads a spectrum. A flux of NaN is a channel that is missing.

    Raises:
        BadInput: Units are missing or unknown, a line is no row of numbers, or numbers are not
            finite, not ascending or not positive where they must be.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise BadInput(f"the spectrum cannot be read ({e})", path) from e
    units: dict[str, str] = {}
    rows, numbers = [], []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text.startswith("#"):
            name, colon, unit = text.lstrip("# ").partition(":")
            if colon and name.strip().lower() in ("wavelength", "flux"):
                units[name.strip().lower()] = unit.strip()
            continue
        if not text:
            continue
        try:
            row = [float(v) for v in text.replace(",", " ").split()]
        except ValueError:
            raise BadInput(
                f"'{text[:40]}' is no row of numbers", f"{path}, line {number}"
            ) from None
        if len(row) not in (3, 4) or (rows and len(row) != len(rows[0])):
            raise BadInput(
                f"{len(row)} columns", f"{path}, line {number}",
                "Write wavelength, flux, error (and width of the channel) in every line.",
            )  # fmt: skip
        rows.append(row)
        numbers.append(number)
    for name, known in (("wavelength", LENGTHS), ("flux", FLUXES | BY_FREQUENCY)):
        if name not in units:
            raise BadInput(
                f"the unit of its {name} is missing", path,
                f"Write a line '# {name}: {next(iter(known))}'.",
            )  # fmt: skip
        if units[name] not in known:
            raise BadInput(
                f"the {name} unit '{units[name]}' is unknown", path, nearest(units[name], known)
            )
    if not rows:
        raise BadInput("it has no rows", path)
    values = np.array(rows)
    _check(values, path, numbers)
    values = values[np.argsort(values[:, 0])]
    if (np.diff(values[:, 0]) == 0).any():
        raise BadInput("a wavelength stands twice", path)
    length = LENGTHS[units["wavelength"]]
    wavelength = values[:, 0] * length
    if units["flux"] in BY_FREQUENCY:
        scale = BY_FREQUENCY[units["flux"]] * C / (wavelength * 1e-6) ** 2 * 1e-6
    else:
        scale = FLUXES[units["flux"]]
    width = values[:, 3] * length if values.shape[1] == 4 else None
    return ObservedSpectrum(wavelength, values[:, 1] * scale, values[:, 2] * scale, width)


def _check(values: np.ndarray, path: str | Path, numbers: list[int]) -> None:
    for column, name, needs in ((0, "wavelength", True), (2, "error", True), (3, "width", True),
                                (1, "flux", False)):  # fmt: skip
        if column >= values.shape[1]:
            continue
        v = values[:, column]
        bad = ~np.isfinite(v) | (v <= 0) if needs else np.isinf(v)
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise BadInput(
                f"{name} is {v[at]:g}", f"{path}, line {numbers[at]}",
                "It must be finite and positive." if needs else "Write nan for a missing channel.",
            )  # fmt: skip
    if np.isnan(values[:, 1]).all():
        raise BadInput("no channel of it has a finite flux", path)


def binning(seen: ObservedSpectrum, tables: KTables | Bins, where: object) -> np.ndarray:
    r"""How much each bin of the tables weighs in each channel: (C, W), rows sum to one.

    Where the tables' bins adjoin, a channel is the mean over its width, or over the distance to
    its nearer neighbour. Where they are single bands, a channel is the band whose centre it names,
    to 1%.

    Raises:
        BadInput: A channel lies outside the tables.
    """
    lam = tables.wavelength
    if tables.edges is None:
        at = np.abs(lam[None] - seen.wavelength[:, None]).argmin(axis=1)
        off = np.abs(lam[at] / seen.wavelength - 1) > 0.01
        _outside(off, seen, f"the tables have bands at {_list(lam)} µm", where)
        return np.eye(len(lam))[at]
    width = seen.width
    if width is None:
        if len(seen.wavelength) < 2:
            raise BadInput(
                "the width of its one channel is missing", where, "Add a fourth column."
            )
        gaps = np.diff(seen.wavelength)
        width = np.minimum(np.append(gaps, np.inf), np.insert(gaps, 0, np.inf))
    low, high = seen.wavelength - width / 2, seen.wavelength + width / 2
    ends = tables.edges
    _outside(
        (low < ends[0] * (1 - 1e-6)) | (high > ends[-1] * (1 + 1e-6)), seen,
        f"the tables reach from {ends[0]:g} to {ends[-1]:g} µm", where,
    )  # fmt: skip
    shared = np.minimum(high[:, None], ends[1:]) - np.maximum(low[:, None], ends[:-1])
    shared = np.clip(shared, 0, None)
    return shared / shared.sum(axis=1, keepdims=True)


def _outside(off: np.ndarray, seen: ObservedSpectrum, reach: str, where: object) -> None:
    if off.any():
        raise BadInput(
            f"{off.sum()} of its {len(off)} channels lie outside the opacity tables, the first at "
            f"{seen.wavelength[off][0]:g} µm", where,
            f"{reach[0].upper()}{reach[1:]}: leave the channels out, or give other tables.",
        )  # fmt: skip


def _list(values: np.ndarray) -> str:
    return ", ".join(f"{v:.4g}" for v in values)
