"""Small made-up tables in petitRADTRANS's formats, written by its own writers: no spectrum made of
them means anything, but all that reads and mixes them is petitRADTRANS's."""

from pathlib import Path

import h5py
import numpy as np

RESOLUTION = 20
GASES = ("H2", "He", "CO", "H2O", "CH4", "CO2", "Na")
LINES = ("H2O__HITEMP", "CO-NatAbund__HITEMP", "CH4__YT34to10", "CO2__UCL-4000", "Na__Allard")


def write(folder: Path, clouds, continua) -> None:
    from petitRADTRANS.chemistry.pre_calculated_chemistry import (
        PreCalculatedEquilibriumChemistryTable,
    )
    from petitRADTRANS.opacities.opacities import CIAOpacity, CloudOpacity, CorrelatedKOpacity

    def place(kind, name, source, ending):
        if kind is CIAOpacity:
            parts = name, f"{name}-NatAbund"
        else:
            full = kind.get_aliases(name) if kind is CloudOpacity else name
            found = kind.get_species_directory(full, kind.get_default_category(), str(folder))
            parts = Path(found).parts[-2:]
        found = folder / kind._get_sub_path(kind.get_default_category()) / Path(*parts)
        found.mkdir(parents=True)
        return str(found / f"{parts[1]}__{source}.{ending}.petitRADTRANS.h5")

    rng = np.random.default_rng(0)
    x, w = np.polynomial.legendre.leggauss(8)
    g = np.concatenate([0.45 * (x + 1), 0.9 + 0.05 * (x + 1)])
    weights = np.concatenate([0.45 * w, 0.05 * w])
    edges = np.exp(np.arange(np.log(1e4 / 2.8), np.log(1e4 / 0.8), 1 / RESOLUTION))
    p, t = np.geomspace(1e-6, 1e3, 5), np.linspace(80.0, 4000.0, 5)
    for name in LINES:
        size = rng.normal(-56, 2, (1, 1, len(edges) - 1, 1)) + 0.3 * np.log(p)[:, None, None, None]
        k = np.exp(size + np.sort(rng.normal(0, 2, 16)) + (t / 2000)[None, :, None, None])
        CorrelatedKOpacity.write(
            place(CorrelatedKOpacity, name, name.split("__")[1], "R1000_0.1-250mu.ktable"),
            name, k, (edges[1:] + edges[:-1]) / 2, edges, p, t, "regular", weights, g,
            molar_mass=18.0, wavelength_range=(1e-5, 2.5e-2),
        )  # fmt: skip
    numbers = np.geomspace(3000.0, 13000.0, 40)  # evenly in the logarithm: so they are looked up
    for pair in continua:
        CIAOpacity.write(
            place(CIAOpacity, pair, "BoRi", "DeltaWavelength1e-6_0.6-250mu.ciatable"),
            tuple(pair.split("--")), 1e-8 * rng.random((5, 40)) + 1e-10, numbers, p, t,
            molar_mass=[2.0, 4.0], wavelength_range=(1e-5, 2.5e-2),
        )  # fmt: skip
    radii = np.geomspace(1e-7, 1e-1, 101)  # coarser, narrow clouds fall between
    for name in clouds:
        one = 30 * rng.random((100, 40)) + 3
        CloudOpacity.write(
            place(CloudOpacity, name, "DHS", "R39_0.1-250mu.cotable"), name, one, 2 * one,
            0.5 * rng.random((100, 40)), np.array(3.2), np.sqrt(radii[1:] * radii[:-1]), radii,
            numbers, wavelength_range=(1e-5, 2.5e-2),
        )  # fmt: skip
    table = Path(PreCalculatedEquilibriumChemistryTable.get_default_file(str(folder)))
    table.parent.mkdir(parents=True)
    co, fe = np.linspace(0.1, 1.6, 3), np.linspace(-2, 3, 3)
    t, p = np.linspace(60.0, 4000.0, 6), np.geomspace(1e-8, 1e3, 5)
    shape = (len(t), len(p), len(co), len(fe))
    part = np.exp(rng.normal(-8, 1, (len(GASES), *shape)))
    part[0], part[1] = 0.74, 0.24
    with h5py.File(table, "w") as f:
        f["log10_metallicities"], f["co_ratios"], f["temperatures"], f["pressures"] = fe, co, t, p
        f["species"] = [s.encode() for s in GASES]
        f["mass_fractions"] = np.log10(part)
        f["mean_molar_masses"] = np.full(shape, 2.33)
        f["nabla_adiabatic"] = np.full(shape, 0.28)
