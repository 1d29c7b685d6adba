r"""Opacity tables: correlated-k of gases (NEMESIS `.kta`, ExoMolOP / petitRADTRANS HDF5), and CIA.

In a spectral bin only the distribution of the absorption coefficient matters, not where in the
bin it is large: k(g) is its quantile function, tabulated at Gauss points of g for a grid of
pressures and temperatures (Lacis & Oinas 1991).

References:
    | ExoMolOP: line list and opacity database (Chubb et al., 2021)
    | https://doi.org/10.1051/0004-6361/202038350
"""

from __future__ import annotations

__all__ = ["CIA", "KTables", "read_cia", "read_exomol", "read_kta", "read_tables"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import BadInput

ATM, BAR = 101325.0, 1e5
NONE = -230.0  # log of an absorption that is none
NEMESIS_GASES = {1: "H2O", 2: "CO2", 5: "CO", 6: "CH4", 11: "NH3", 28: "PH3", 36: "H2S"}


@dataclass(frozen=True)
class KTables:
    r"""Absorption of G gases on one grid.

    Attributes:
        gases: Their formulas.
        wavelength: Centres of the W bins in µm, ascending.
        edges: The W + 1 edges of adjoining bins in µm, or None where the table has none.
        weights: Of the N Gauss points of g; they sum to one.
        pressure, temperature: Of the grid in Pa and K, ascending.
        log_k: Log of absorption cross-sections in m² per molecule, shape (G, P, T, W, N).
    """

    gases: tuple[str, ...]
    wavelength: np.ndarray
    edges: np.ndarray | None
    weights: np.ndarray
    pressure: np.ndarray
    temperature: np.ndarray
    log_k: np.ndarray

    def cut(self, low: float, high: float) -> KTables:
        r"""The bins whose centres lie in [low, high] µm."""
        inside = np.flatnonzero((self.wavelength >= low) & (self.wavelength <= high))
        if not len(inside):
            raise BadInput(
                f"no bin of the tables lies in {low:g}-{high:g} µm", "opacities",
                f"They reach from {self.wavelength[0]:g} to {self.wavelength[-1]:g} µm.",
            )  # fmt: skip
        lo, hi = inside[0], inside[-1] + 1
        edges = None if self.edges is None else self.edges[lo : hi + 1]
        return replace(
            self, wavelength=self.wavelength[lo:hi], edges=edges, log_k=self.log_k[:, :, :, lo:hi]
        )


def read_kta(path: str | Path) -> KTables:
    r"""A table of NEMESIS: a header of 4-byte words, then k in 1e-20 cm² per molecule.

    Raises:
        BadInput: The file is no such table, is truncated, or holds no finite numbers.
    """
    raw = _bytes(path)
    ints, reals = np.frombuffer(raw, "<i4"), np.frombuffer(raw, "<f4")
    if len(ints) < 12:
        raise BadInput(f"{len(raw)} bytes are no k-table", path, "Is it truncated?")
    start, W, P, T, N, gas = (int(ints[i]) for i in (0, 1, 5, 6, 7, 8))
    first, step = float(reals[2]), float(reals[3])
    size = W * P * T * N
    if min(start, W, P, T, N) <= 0 or max(W, P, T, N) > 10**6:
        raise BadInput("its header is not that of a NEMESIS k-table", path)
    if len(reals) < start - 1 + size:
        raise BadInput(
            f"{len(raw)} bytes, but its header announces {4 * (start - 1 + size)}", path,
            "Is it truncated? Fetch it again.",
        )  # fmt: skip
    if gas not in NEMESIS_GASES:
        raise BadInput(f"gas number {gas} is unknown", path, f"Known: {NEMESIS_GASES}.")
    at = 10
    weights = reals[at + N : at + 2 * N].astype(np.float64)
    at += 2 * N + 2
    pressure = reals[at : at + P].astype(np.float64) * ATM
    temperature = reals[at + P : at + P + T].astype(np.float64)
    at += P + T
    wavelength = first + step * np.arange(W) if step > 0 else reals[at : at + W].astype(np.float64)
    k = reals[start - 1 : start - 1 + size].reshape(W, P, T, N).transpose(1, 2, 0, 3)
    return _table(path, NEMESIS_GASES[gas], wavelength, None, weights, pressure, temperature,
                  k.astype(np.float64) * 1e-24)  # fmt: skip


def read_exomol(path: str | Path) -> KTables:
    r"""A table of ExoMolOP or petitRADTRANS: HDF5, wavenumbers in cm⁻¹, k in cm² per molecule.

    Raises:
        BadInput: A dataset is missing, a unit is another one, or numbers are not finite.
    """
    import h5py

    try:
        with h5py.File(path, "r") as f:
            for name in ("kcoeff", "p", "t", "weights", "bin_centers"):
                if name not in f:
                    raise BadInput(f"it has no '{name}'", path, "Is it an ExoMolOP k-table?")
            unit = _text(f["kcoeff"].attrs.get("units", "cm^2/molecule"))
            if not unit.replace(" ", "").startswith(("cm^2", "cm2", "cm**2")):
                raise BadInput(f"its k is in '{unit}'", path, "cm^2/molecule is expected.")
            bar = _text(f["p"].attrs.get("units", "bar"))
            if bar not in ("bar", "Pa"):
                raise BadInput(f"its pressures are in '{bar}'", path, "bar or Pa is expected.")
            gas = _text(f["mol_name"][()]) if "mol_name" in f else Path(path).name.split("_")[0]
            pressure = f["p"][:] * (BAR if bar == "bar" else 1.0)
            temperature, weights = f["t"][:], f["weights"][:]
            k = f["kcoeff"][:].astype(np.float64)  # (P, T, W, N)
            centres = f["bin_centers"][:].astype(np.float64)
            edges = f["bin_edges"][:].astype(np.float64) if "bin_edges" in f else None
    except OSError as e:
        raise BadInput(f"it cannot be read as HDF5 ({e})", path, "Is it truncated?") from e
    if k.shape != (len(pressure), len(temperature), len(centres), len(weights)):
        raise BadInput(f"k has shape {k.shape}, which is not that of its grid", path)
    edges = None if edges is None else 1e4 / edges[::-1]
    return _table(path, gas, 1e4 / centres[::-1], edges, weights, pressure, temperature,
                  k[:, :, ::-1] * 1e-4)  # fmt: skip


def read_tables(paths: Sequence[str | Path]) -> KTables:
    r"""Several gases as one; their grids must agree."""
    read = [read_kta(p) if Path(p).suffix == ".kta" else read_exomol(p) for p in paths]
    first = read[0]
    for path, other in zip(paths, read, strict=True):
        for grid in ("wavelength", "weights", "pressure", "temperature"):
            a, b = getattr(first, grid), getattr(other, grid)
            if a.shape != b.shape or not np.allclose(a, b, rtol=1e-4):
                raise BadInput(
                    f"its grid of {grid} is not that of {Path(paths[0]).name}", path,
                    "Give tables that were made together.",
                )  # fmt: skip
    gases = tuple(t.gases[0] for t in read)
    if len(set(gases)) < len(gases):
        raise BadInput(f"a gas stands twice in {', '.join(gases)}", "opacities")
    return replace(first, gases=gases, log_k=np.concatenate([t.log_k for t in read]))


@dataclass(frozen=True)
class CIA:
    r"""Collision-induced absorption.

    Attributes:
        wavenumber: In cm⁻¹, ascending.
        temperature: In K.
        k: In m⁻¹ amagat⁻², by pair of gases, each with shape (T, wavenumbers).
    """

    wavenumber: np.ndarray
    temperature: np.ndarray
    k: Mapping[tuple[str, str], np.ndarray]


# Places of the pairs in NEMESIS's file. Of hydrogen it has two: equilibrium, and normal (3:1).
PAIRS = {("H2", "H2"): 2, ("H2", "He"): 3, ("CH4", "CH4"): 7, ("H2", "CH4"): 8}


def read_cia(path: str | Path, spacing: float = 10.0) -> CIA:
    r"""NEMESIS's table of nine pairs (Fortran records, cm⁻¹ amagat⁻², a wavenumber each 10 cm⁻¹).

    Raises:
        BadInput: The file is no such table or is truncated.
    """
    from scipy.io import FortranEOFError, FortranFile, FortranFormattingError

    _bytes(path)
    try:
        with FortranFile(path, "r") as f:
            temperature = f.read_reals("f8")
            k = f.read_reals("f4").astype(np.float64)
    except (FortranEOFError, FortranFormattingError, ValueError, TypeError) as e:
        raise BadInput(f"it is no table of NEMESIS ({e})", path, "Is it truncated?") from e
    k = k.reshape(-1, len(temperature), 9)
    _finite(k, path)
    found = {pair: k[:, :, i].T * 100.0 for pair, i in PAIRS.items()}
    return CIA(spacing * np.arange(len(k)), temperature, found)


def _table(path, gas, wavelength, edges, weights, pressure, temperature, k) -> KTables:
    _finite(k, path)
    order = np.argsort(wavelength)
    for name, grid in (("pressure", pressure), ("temperature", temperature)):
        if (np.diff(grid) <= 0).any():
            raise BadInput(f"its {name}s do not ascend", path)
    with np.errstate(divide="ignore"):
        log_k = np.where(k > 0, np.log(k), NONE)
    return KTables(
        (gas,), np.asarray(wavelength)[order], edges, np.asarray(weights) / np.sum(weights),
        np.asarray(pressure, np.float64), np.asarray(temperature, np.float64),
        log_k[None, :, :, order].astype(np.float32),
    )  # fmt: skip


def _finite(k: np.ndarray, path: str | Path) -> None:
    if not np.isfinite(k).all() or (k < 0).any():
        bad = int((~np.isfinite(k) | (k < 0)).sum())
        raise BadInput(f"{bad} of its absorptions are negative or not finite", path)


def _bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as e:
        raise BadInput(f"the table cannot be read ({e.strerror})", path) from e


def _text(value) -> str:
    value = np.asarray(value).reshape(-1)[0]
    return value.decode() if isinstance(value, bytes) else str(value)
