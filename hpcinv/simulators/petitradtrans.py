r"""petitRADTRANS as a simulator: HR 8799 e with the 16 parameters of Vasist et al. (2023).

Disequilibrium chemistry (carbon quenched at a pressure), two clouds whose mass scales with what
condenses in equilibrium, and a temperature profile of six parameters, with scattering. The model
is that of Mollière et al. (2020), made of petitRADTRANS's own functions; parameters, bounds,
wavelengths, distance and noise are those of Vasist et al. Theirs were given in bar, cm and g:
here they are in SI units.

petitRADTRANS (version 3) needs a Fortran compiler to install and opacities of many GB, which its
users download (https://petitradtrans.readthedocs.io); nothing is downloaded by a job.

References:
    | Neural posterior estimation for exoplanetary atmospheric retrieval (Vasist et al., 2023)
    | https://doi.org/10.1051/0004-6361/202245263

    | Retrieving scattering clouds and disequilibrium chemistry in the atmosphere of HR 8799e
    | (Mollière et al., 2020), https://doi.org/10.1051/0004-6361/202038325
"""

from __future__ import annotations

__all__ = ["PetitRADTRANS"]

import contextlib
import io
import math
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput
from .atmosphere import planck
from .base import Axis, Curve, Output, Parameter, Prior
from .measured_spectrum import MeasuredSpectrum
from .observed_spectrum import Bins, binning, read_spectrum

WHERE = "simulator 'petitradtrans'"
BAR = 1e5
# The pressures between which profiles are made, in bar, and the coarse grid: the fine one is
# used near the bases of the clouds (`FINE` times finer over `WIDTH` coarse steps each).
LEVELS, FINE, WIDTH = np.logspace(-6, 3, 1000), 10, 3
LINES = (
    "H2O__HITEMP", "CO-NatAbund__HITEMP", "CH4__YT34to10", "NH3__CoYuTe", "CO2__UCL-4000",
    "H2S__AYT2", "VO__VOMYT", "TiO-NatAbund__McKemmish", "PH3__SAlTY", "Na__Allard", "K__Allard",
)  # fmt: skip
CLOUDS = ("MgSiO3(s)_crystalline_000__DHS", "Fe(s)_crystalline_000__DHS")
CONTINUA = ("H2--H2", "H2--He")
# What is used of petitRADTRANS: module, and what of it.
PARTS = {
    "constants": ("physical_constants",),
    "setup_clouds": ("chemistry.clouds", "setup_clouds"),
    "get_abundances": ("chemistry.core", "get_abundances"),
    "chemistry": (
        "chemistry.pre_calculated_chemistry", "pre_calculated_equilibrium_chemistry_table"
    ),
    "config": ("config.configuration", "petitradtrans_config_parser"),
    "CIAOpacity": ("opacities.opacities", "CIAOpacity"),
    "CloudOpacity": ("opacities.opacities", "CloudOpacity"),
    "CorrelatedKOpacity": ("opacities.opacities", "CorrelatedKOpacity"),
    "profile": ("physics", "temperature_profile_function_ret_model"),
    "Radtrans": ("radtrans", "Radtrans"),
}  # fmt: skip


class PetitRADTRANS(MeasuredSpectrum):
    r"""The simulator; a spectrum has a channel for each bin of the opacities, or those observed.

    Arguments:
        input_data: petitRADTRANS's folder `input_data`; by default the one it is configured for.
        lines: Absorbing gases as petitRADTRANS names them; add `.R400` for tables of that
            resolving power, which are those of the paper.
        clouds: Condensates, as petitRADTRANS names them.
        wavelengths: First and last in µm.
        observed: A spectrum whose channels and errors are taken (see `read_spectrum`).
        distance: In parsec.
        floor: Standard deviation of the noise in W m⁻² µm⁻¹; that of the paper by default.

    Raises:
        BadInput: petitRADTRANS is not installed, or some of its tables are not there.
    """

    batched = False

    def __init__(
        self,
        input_data: str | Path | None = None,
        lines: Sequence[str] = LINES,
        clouds: Sequence[str] = CLOUDS,
        wavelengths: tuple[float, float] = (0.95, 2.45),
        observed: str | Path | None = None,
        distance: float = 41.2925,
        floor: float = 1.25754e-17,
    ) -> None:
        for name, value in (("distance", distance), ("floor", floor)):
            if not (math.isfinite(value) and value > 0):
                raise BadInput(f"{name} is {value}", WHERE, "It is positive.")
        for kind in ("Fe(", "MgSiO3("):
            if not any(c.startswith(kind) for c in clouds):
                raise BadInput(
                    f"no cloud of {kind[:-1]} among {list(clouds)}",
                    WHERE,
                    f"The model has two, of iron and of silicate: {list(CLOUDS)}.",
                )
        self._prt = _modules()
        folder = Path(input_data or self._prt.config.get_input_data_path())
        self.lines, self.clouds, self.distance = list(lines), list(clouds), distance
        chemistry = _present(self._prt, folder, self.lines, self.clouds)
        with _quiet():
            self._prt.chemistry.load(path=str(chemistry), file=str(chemistry))
            self._atmosphere = self._prt.Radtrans(
                pressures=LEVELS[:: len(LEVELS) // self._levels],
                wavelength_boundaries=np.array(wavelengths, dtype=float),
                line_species=self.lines,
                cloud_species=self.clouds,
                rayleigh_species=["H2", "He"],
                gas_continuum_contributors=list(CONTINUA),
                scattering_in_emission=True,
                path_input_data=str(folder),
            )
        light = self._prt.constants.c
        edges = np.sort(light / self._atmosphere.frequency_bins_edges * 1e4)
        self.tables = Bins(np.sort(light / self._atmosphere.frequencies * 1e4), edges)
        self.seen = None if observed is None else read_spectrum(observed)
        self._bins = None if self.seen is None else binning(self.seen, self.tables, observed)
        self.floor, self.snr = floor, math.inf
        self.prior = Prior(
            [
                Parameter("c_to_o", 0.1, 1.6, "1"),
                Parameter("metallicity", -1.5, 1.5, "dex"),
                Parameter("quench_pressure", 1e-6 * BAR, 1e3 * BAR, "Pa", "log"),
                Parameter("iron", 10**-2.3, 10, "1", "log"),
                Parameter("silicate", 10**-2.3, 10, "1", "log"),
                Parameter("f_sed", 0, 10, "1"),
                Parameter("k_zz", 1e1, 1e9, "m2 s-1", "log"),
                Parameter("sigma_g", 1.05, 3, "1"),
                Parameter("gravity", 1, 10**3.5, "m s-2", "log"),
                Parameter("radius", 0.9, 2, "R_jup"),
                Parameter("t_int", 300, 2300, "K"),
                Parameter("t3", 0, 1, "1"),
                Parameter("t2", 0, 1, "1"),
                Parameter("t1", 0, 1, "1"),
                Parameter("alpha", 1, 2, "1"),
                Parameter("delta", 0, 1, "1"),
            ]
        )
        centres = self.tables.wavelength if self.seen is None else self.seen.wavelength
        self.outputs = Output("arsinh_flux", "1", (Axis("wavelength", "um", tuple(centres)),))

    @property
    def _levels(self) -> int:
        r"""Levels of the grid that is refined near the clouds."""
        return len(LEVELS) // FINE + len(self.clouds) * WIDTH * (FINE - 1)

    def flux(self, theta: Tensor) -> Tensor:
        r"""Flux at the observer in W m⁻² µm⁻¹, (n, 16) to (n, C)."""
        found = torch.from_numpy(np.stack([self._flux(row) for row in theta.double().tolist()]))
        found = found if self._bins is None else found @ torch.from_numpy(self._bins).T
        return found.to(theta.dtype)

    def _flux(self, row: Sequence[float]) -> np.ndarray:
        told, prt = self._told(row), self._prt
        temperature = self._temperature(told, LEVELS)
        with _quiet():
            fractions, mass, at, _ = prt.get_abundances(
                LEVELS, temperature, self.lines, self.clouds, told, amr=True
            )
            self._atmosphere.pressures = LEVELS[at] * 1e6  # in dyn cm-2
            sigma, f_sed, k_zz, *_ = prt.setup_clouds(LEVELS[at], told, self.clouds)
            wavelength, flux, _ = self._atmosphere.calculate_flux(
                temperatures=temperature[at], mass_fractions=fractions, mean_molar_masses=mass[at],
                reference_gravity=10 ** told["log_g"].value, cloud_f_sed=f_sed,
                eddy_diffusion_coefficients=k_zz, cloud_particle_radius_distribution_std=sigma,
            )  # fmt: skip
        order = np.argsort(wavelength)
        wavelength, flux = 1e4 * wavelength[order], 1e-7 * flux[order]  # um, W m-2 um-1
        # Iterations for scattering may diverge where all is opaque: nothing outshines its hottest
        # part, and what does is a failed simulation.
        most = math.pi * planck(torch.from_numpy(wavelength), torch.tensor(temperature.max()))
        if not ((flux >= 0) & (flux <= 1.01 * most.numpy())).all():
            return np.full_like(flux, np.nan)
        far = self.distance * prt.constants.pc
        return flux * (told["planet_radius"].value / far) ** 2

    def _told(self, row: Sequence[float]) -> dict[str, Any]:
        r"""Parameters by petitRADTRANS's names, in its units."""
        q = dict(zip(self.prior.names, row, strict=True))
        iron, silicate = (next(c for c in self.clouds if c.startswith(n)).split("_")[0]
                          for n in ("Fe(", "MgSiO3("))  # fmt: skip
        values = {
            "C/O": q["c_to_o"],
            "Fe/H": q["metallicity"],
            "log_pquench": math.log10(q["quench_pressure"] / BAR),
            f"eq_scaling_{iron}": math.log10(q["iron"]),
            f"eq_scaling_{silicate}": math.log10(q["silicate"]),
            "fsed": q["f_sed"],
            "log_kzz": math.log10(q["k_zz"]) + 4,
            "sigma_lnorm": q["sigma_g"],
            "log_g": math.log10(q["gravity"]) + 2,
            "planet_radius": q["radius"] * self._prt.constants.r_jup_mean,
            "T_int": q["t_int"],
            "T3": q["t3"],
            "T2": q["t2"],
            "T1": q["t1"],
            "alpha": q["alpha"],
            "log_delta": q["delta"],
            "pressure_scaling": FINE,
            "pressure_width": WIDTH,
        }
        return {k: SimpleNamespace(value=v) for k, v in values.items()}

    def _temperature(self, told: dict[str, Any], pressure: np.ndarray) -> np.ndarray:
        r"""The temperature profile in K at pressures in bar, ascending (Mollière et al. 2020).

        t3, t2 and t1 say by which share each temperature is below the next one further down.
        """
        v = {k: p.value for k, p in told.items()}
        top = (0.75 * v["T_int"] ** 4 * (0.1 + 2 / 3)) ** 0.25  # of the Eddington profile
        t3 = top * (1 - v["T3"])
        t2 = t3 * (1 - v["T2"])
        t1 = t2 * (1 - v["T1"])
        delta = (10 ** (-3 + 5 * v["log_delta"]) * 1e6) ** -v["alpha"]
        return self._prt.profile(
            (np.array([t1, t2, t3]), delta, v["alpha"], v["T_int"], pressure, v["Fe/H"], v["C/O"],
             True)
        )  # fmt: skip

    def curves(self, theta: Tensor) -> list[Curve]:
        r"""The temperature profiles of parameters (n, P)."""
        found = np.stack(
            [self._temperature(self._told(row), LEVELS) for row in theta.double().tolist()]
        )[:, ::10]
        axis = Axis("pressure", "Pa", tuple((LEVELS[::10] * BAR).tolist()))
        return [Curve("temperature", "K", axis, found, log=True, upright=True)]


def _modules() -> SimpleNamespace:
    r"""What is used of petitRADTRANS 3."""
    try:
        with _alone(), _quiet():
            found = {k: import_module(f"petitRADTRANS.{v[0]}") for k, v in PARTS.items()}
    except ImportError as e:
        raise BadInput(
            f"petitRADTRANS 3 cannot be imported ({e})", WHERE,
            "It needs a Fortran compiler: FC=gfortran pip install petitRADTRANS==3.4.0. Or take "
            "simulator: spectrum, which needs nothing.",
        ) from e  # fmt: skip
    return SimpleNamespace(
        **{k: getattr(found[k], v[1]) if len(v) == 2 else found[k] for k, v in PARTS.items()}
    )


def _present(prt: SimpleNamespace, folder: Path, lines: list[str], clouds: list[str]) -> Path:
    r"""The table of chemistry, if all tables are there: petitRADTRANS would search the network.

    Raises:
        BadInput: Names those that are missing.
    """
    chemistry = Path(prt.chemistry.get_default_file(str(folder)))
    missing = [] if chemistry.is_file() else [str(chemistry.relative_to(folder))]
    for kind, names in (
        (prt.CorrelatedKOpacity, lines), (prt.CloudOpacity, clouds), (prt.CIAOpacity, CONTINUA)
    ):  # fmt: skip
        missing += [n for n in names if not _found(kind, n, folder)]
    if missing:
        raise BadInput(
            f"{len(missing)} tables of petitRADTRANS are missing in {folder}, or not the only "
            f"ones of their name: {', '.join(missing)}", WHERE,
            "Download them (https://petitradtrans.readthedocs.io, 'Available opacities'), or name "
            "others with options: {lines: [...], clouds: [...], input_data: ...}.",
        )  # fmt: skip
    return chemistry


def _found(kind: Any, name: str, folder: Path) -> bool:
    r"""Whether the table that is named is there, and no other goes by the same name."""
    full = kind.get_aliases(name) if hasattr(kind, "get_aliases") else name
    try:
        with _quiet():
            files = kind.find(full, path_input_data=str(folder), find_all=True)
    except FileNotFoundError:
        return False
    # Of several it would ask at the keyboard.
    return isinstance(files, str) or len(files) == 1


@contextlib.contextmanager
def _alone():
    r"""Without mpi4py: petitRADTRANS asks for its rank as it is imported, which ends a process
    whose MPI has not begun. It does without where there is no mpi4py."""
    mpi4py = sys.modules.pop("mpi4py", None)
    sys.modules["mpi4py"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["mpi4py"]
        if mpi4py is not None:
            sys.modules["mpi4py"] = mpi4py


@contextlib.contextmanager
def _quiet():
    r"""Without what petitRADTRANS prints, what it warns of when pressures are set, and the browser
    it starts to look for a table that is not there."""
    from petitRADTRANS import _input_data

    def nowhere(*, full_path: str, **_):
        raise FileNotFoundError(full_path)

    search = _input_data._get_input_file_from_keeper
    _input_data._get_input_file_from_keeper = nowhere
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _input_data._get_input_file_from_keeper = search
