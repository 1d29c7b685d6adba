"""petitRADTRANS as a simulator: its own model gives the same, its tables are read, what is missing
is named. Where petitRADTRANS is not installed only the last is tested."""

import sys
import types

import numpy as np
import pytest
import torch

from hpcinv.errors import BadInput
from hpcinv.simulators import make
from hpcinv.simulators.base import Key
from hpcinv.simulators.opacity import read_tables
from hpcinv.simulators.petitradtrans import CLOUDS, CONTINUA, FINE, WIDTH


def test_without_petitradtrans_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "petitRADTRANS", None)
    with pytest.raises(BadInput, match=r"(?s)petitRADTRANS 3 cannot be imported.*pip install"):
        make("petitradtrans")


def test_clouds_that_the_model_has_not_are_refused():
    with pytest.raises(BadInput, match=r"no cloud of MgSiO3 among \['Fe\(s\)_crystalline__DHS'\]"):
        make("petitradtrans", {"clouds": ["Fe(s)_crystalline__DHS"]})


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    pytest.importorskip("petitRADTRANS")
    from petitradtrans_tables import write

    folder = tmp_path_factory.mktemp("input_data")
    write(folder, CLOUDS, CONTINUA)
    return folder


@pytest.fixture(scope="module")
def simulator(tables):
    from petitradtrans_tables import LINES

    return make("petitradtrans", {"input_data": tables, "lines": LINES})


def test_tables_that_are_missing_are_named(tables):
    with pytest.raises(BadInput, match=r"6 tables .*: NH3__CoYuTe, H2S__AYT2, VO.*K__Allard\."):
        make("petitradtrans", {"input_data": tables})
    with pytest.raises(BadInput, match=r"16 tables .*: pre_calculated_chemistry/.*H2--He"):
        make("petitradtrans", {"input_data": tables / "nowhere"})


def test_the_prior_is_that_of_vasist_et_al(simulator):
    prior = simulator.prior
    assert len(prior) == 16
    low, high = (prior.from_quantile(torch.full((1, 16), u)).tolist()[0] for u in (0.0, 1.0))
    told = [{k: v.value for k, v in simulator._told(row).items()} for row in (low, high)]
    published = {  # Table 1: theirs are logarithms, pressures in bar, the rest in cgs
        "C/O": (0.1, 1.6), "Fe/H": (-1.5, 1.5), "log_pquench": (-6, 3),
        "eq_scaling_Fe(s)": (-2.3, 1), "eq_scaling_MgSiO3(s)": (-2.3, 1), "fsed": (0, 10),
        "log_kzz": (5, 13), "sigma_lnorm": (1.05, 3), "log_g": (2, 5.5),
        "planet_radius": (0.9 * 6.9911e9, 2 * 6.9911e9), "T_int": (300, 2300), "T3": (0, 1),
        "T2": (0, 1), "T1": (0, 1), "alpha": (1, 2), "log_delta": (0, 1),
    }  # fmt: skip
    for name, ends in published.items():
        np.testing.assert_allclose([t[name] for t in told], ends, rtol=1e-4, err_msg=name)


def test_its_own_model_gives_the_same(simulator, monkeypatch):
    """The model of petitRADTRANS's retrievals, which imports an extinction law it does not use."""
    law = types.ModuleType("species.util.dust_util")
    law.apply_ism_ext = None
    for name in ("species", "species.util", "species.util.dust_util"):
        monkeypatch.setitem(sys.modules, name, law)
    from petitRADTRANS.retrieval.models import emission_model_diseq

    theta = simulator.prior.sample(Key(0, range(6))).double()
    found = simulator.flux(theta).numpy()
    whole = np.isfinite(found).all(axis=1)
    assert whole.sum() >= 4
    for row, mine in zip(theta[whole].tolist(), found[whole], strict=True):
        told = simulator._told(row) | {
            k: types.SimpleNamespace(value=v)
            for k, v in {"pressure_scaling": FINE, "pressure_width": WIDTH, "pressure_simple": 100,
                         "D_pl": simulator.distance * simulator._prt.constants.pc}.items()
        }  # fmt: skip
        # It takes the ends of its fine grid from the last spectrum's.
        simulator._atmosphere.pressures = np.logspace(-6, 3, simulator._levels) * 1e6
        wavelength, flux = emission_model_diseq(simulator._atmosphere, told, amr=True)
        order = np.argsort(wavelength)
        np.testing.assert_allclose(wavelength[order], simulator.tables.wavelength, rtol=1e-9)
        np.testing.assert_allclose(mine, flux[order], rtol=1e-9)


def test_a_spectrum_is_that_of_its_parameters_alone(simulator):
    theta = simulator.prior.sample(Key(1, range(3)))
    a = simulator.simulate(theta)
    assert a.shape == (3, *simulator.outputs.shape)
    b = torch.cat([simulator.simulate(theta[[k]]) for k in (2, 1, 0)]).flip(0)
    assert torch.equal(a.nan_to_num(), b.nan_to_num()) and a.isfinite().any()
    (curve,) = simulator.curves(theta)
    assert (curve.values > 0).all() and curve.values.shape == (3, 100)
    noisy = simulator.noise(torch.zeros(2000, a.shape[1]), Key(0, range(2000)))
    assert simulator.flux_of(noisy).std().item() == pytest.approx(1.25754e-17, rel=0.02)


def test_its_tables_are_read_without_it(tables):
    """By the reader of `simulator: spectrum`."""
    from petitRADTRANS.opacities.opacities import CorrelatedKOpacity
    from petitradtrans_tables import LINES

    paths = [CorrelatedKOpacity.find(n, path_input_data=str(tables)) for n in LINES[:4]]
    found = read_tables(paths)
    assert found.gases == ("H2O", "CO", "CH4", "CO2")
    import h5py

    for k, path in enumerate(paths):
        with h5py.File(path) as f:
            raw = f["kcoeff"][:][:, :, ::-1] * 1e-4
            np.testing.assert_allclose(found.wavelength, 1e4 / f["bin_centers"][:][::-1])
            np.testing.assert_allclose(found.pressure, f["p"][:] * 1e5)
        np.testing.assert_allclose(np.exp(found.log_k[k]), raw, rtol=1e-4)
