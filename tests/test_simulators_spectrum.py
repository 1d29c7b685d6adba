"""Emission spectra: exact limits, a peer's numbers, tables that are wrong."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy import stats

from hpcinv.errors import BadInput
from hpcinv.simulators import atmosphere, make, nemesis_tables, overlap
from hpcinv.simulators.base import Key
from hpcinv.simulators.measured_spectrum import PARSEC
from hpcinv.simulators.observed_spectrum import binning, read_spectrum
from hpcinv.simulators.opacity import read_cia, read_kta, read_tables
from hpcinv.simulators.spectrum import Spectrum

GASES, W, N = ["H2O", "CO2", "CO", "CH4"], 6, 8
PEER = Path(__file__).parent / "data" / "nemesispy_spectra.json"


def gauss(count=N):
    x, w = np.polynomial.legendre.leggauss(count)
    return (x + 1) / 2, w / 2


def write_kta(path, gas, k, wavelength, pressure, temperature, weights):
    """A .kta file as NEMESIS writes it; k in cm² with shape (P, T, W, N)."""
    P, T, W, N = k.shape
    start = 10 + 2 * N + 2 + P + T + W + 1
    with path.open("wb") as f:
        np.array([start, W], "<i4").tofile(f)
        np.array([wavelength[0], -1, 0], "<f4").tofile(f)
        np.array([P, T, N, gas, 0], "<i4").tofile(f)
        for a in (gauss(N)[0], weights, [0, 0], pressure / 101325, temperature, wavelength):
            np.array(a, "<f4").tofile(f)
        (k.transpose(2, 0, 1, 3) * 1e20).astype("<f4").tofile(f)


def write_cia(path, k):
    """Nine pairs; k in cm⁻¹ amagat⁻² with shape (wavenumbers, T, 9)."""
    with path.open("wb") as f:
        for a in (np.linspace(200, 3800, k.shape[1]), k.astype("f4")):
            size = np.array(a.nbytes, "<i4").tobytes()
            f.write(size + a.tobytes() + size)


@pytest.fixture
def tables(tmp_path):
    """Toy opacities in both formats: (kta files, HDF5 files, CIA file)."""
    rng = np.random.default_rng(0)
    wavelength = np.linspace(1.2, 4.4, W)
    pressure, temperature = np.geomspace(1, 1e7, 5), np.linspace(100, 3000, 4)
    kta, hdf = [], []
    for gas, number in zip(GASES, (1, 2, 5, 6), strict=True):
        k = np.exp(np.sort(rng.normal(-50, 4, (5, 4, W, N)), axis=-1))
        kta.append(tmp_path / f"{gas}.kta")
        write_kta(kta[-1], number, k, wavelength, pressure, temperature, gauss()[1])
        hdf.append(tmp_path / f"{gas}__R.ktable.h5")
        edges = np.linspace(1.2 - 0.32, 4.4 + 0.32, W + 1)
        with h5py.File(hdf[-1], "w") as f:
            f["mol_name"], f["weights"], f["samples"] = [gas], gauss()[1], gauss()[0]
            f["t"], f["p"] = temperature, pressure / 1e5
            f["bin_centers"], f["bin_edges"] = 1e4 / wavelength[::-1], 1e4 / edges[::-1]
            f["kcoeff"] = k[:, :, ::-1]
            f["p"].attrs["units"], f["kcoeff"].attrs["units"] = "bar", "cm^2/molecule"
    cia = tmp_path / "cia.tab"
    write_cia(cia, 1e-6 * rng.random((1001, 3, 9)))
    return kta, hdf, cia


def thetas(simulator, n=8, seed=0):
    return simulator.prior.sample(Key(seed, range(n))).double()


def test_both_formats_say_the_same(tables):
    kta, hdf, cia = tables
    a, b = read_tables(kta), read_tables(hdf)
    assert a.gases == b.gases == tuple(GASES)
    for name in ("wavelength", "weights", "pressure", "temperature", "log_k"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=3e-6, err_msg=name)
    one, two = Spectrum(kta, cia), Spectrum(hdf, cia)
    theta = thetas(one)
    torch.testing.assert_close(one.flux(theta), two.flux(theta), rtol=1e-4, atol=0)


def test_random_overlap_is_a_convolution():
    """Against a million draws of the sum, and moments that are exact whatever the rebinning."""
    w = torch.from_numpy(gauss(20)[1])
    g = torch.from_numpy(gauss(20)[0])
    a, b = (torch.from_numpy(stats.lognorm(s).ppf(g.numpy())) for s in (0.5, 1.5))
    mixed = overlap.mix(a[None], b[None], w)[0]
    assert (mixed.diff() > 0).all()
    torch.testing.assert_close(mixed @ w, a @ w + b @ w)
    rng = np.random.default_rng(0)
    drawn = sum(rng.choice(t.numpy(), 1_000_000, p=w.numpy()) for t in (a, b))
    edges = np.concatenate([[0], np.cumsum(w.numpy())])
    drawn.sort()
    means = [c.mean() for c in np.split(drawn, (edges[1:-1] * len(drawn)).astype(int))]
    np.testing.assert_allclose(mixed.numpy(), means, rtol=0.02)
    fast = overlap.mix(a[None].float(), b[None].float(), w.float())[0]
    torch.testing.assert_close(fast, mixed.float(), rtol=3e-4, atol=0)


def test_a_thin_gas_adds_its_mean():
    w = torch.from_numpy(gauss(20)[1])
    rng = np.random.default_rng(1)
    taus = torch.from_numpy(np.sort(np.exp(rng.normal(-4, 4, (3, 200, 20))), axis=-1))
    whole = overlap.mix_all(taus, w, thin=0.0)
    quick = overlap.mix_all(taus, w)
    off = (torch.exp(-whole) - torch.exp(-quick)) @ w
    assert off.abs().max() < 0.02**2


def test_one_temperature_is_a_black_body(tables):
    """Without a gradient of temperature all opacities give the Planck function."""
    s = Spectrum(tables[0], tables[2])
    theta = thetas(s)
    names = s.prior.names
    cold = torch.full((len(theta), 1), 900.0, dtype=torch.float64)
    gravity, radius = theta[:, names.index("gravity")], 7e7 * theta[:, names.index("radius")]
    cloud = theta[:, 8:10].T[:, :, None]
    f = s.emitted(theta[:, :4], lambda p: cold.expand(-1, len(p)), gravity, radius, *cloud)
    lam = torch.from_numpy(s.tables.wavelength)
    h, c, k = 6.62607015e-34, 299792458.0, 1.380649e-23
    exact = 2 * h * c**2 / (lam * 1e-6) ** 5 / torch.expm1(h * c / (lam * 1e-6 * k * 900)) * 1e-6
    torch.testing.assert_close(f, (np.pi * exact).expand_as(f), rtol=1e-6, atol=0)


def test_grey_atmosphere_follows_eddingtons_law(tables, tmp_path):
    """Only the grey deck, T⁴ linear in optical depth: F = π ∫ B(T(τ)) 2 E₂(τ) dτ."""
    from scipy.integrate import quad
    from scipy.special import expn

    write_cia(tmp_path / "none.tab", np.zeros((1001, 3, 9)))
    clear = []
    for path, number in zip(tables[0], (1, 2, 5, 6), strict=True):
        t = read_kta(path)
        k = np.full((5, 4, W, N), 1e-50)
        clear.append(tmp_path / f"clear{number}.kta")
        write_kta(clear[-1], number, k, t.wavelength, t.pressure, t.temperature, t.weights)
    s = Spectrum(clear, tmp_path / "none.tab", layers=200, angles=8, pressures=(1, 2e6))
    kappa, gravity, effective = 1e-2, 100.0, 1000.0

    def profile(p):
        return (0.75 * effective**4 * (2 / 3 + kappa * p / gravity)) ** 0.25

    one = torch.ones(1, 1, dtype=torch.float64)
    f = s.emitted(1e-8 * one.expand(1, 4), lambda p: profile(p)[None], gravity * one[0],
                  7e10 * one[0], 0.1 * one, kappa * one)[0]  # fmt: skip
    for lam, found in zip(s.tables.wavelength[2:], f[2:], strict=True):

        def emission(tau, lam=lam):
            t = torch.tensor(profile(tau * gravity / kappa))
            return float(atmosphere.planck(torch.tensor(lam).double(), t)) * 2 * expn(2, tau)

        exact = np.pi * quad(emission, 0, 40, limit=200)[0]
        assert found.item() == pytest.approx(exact, rel=4e-3)


def test_hydrostatic_layers():
    """Constant temperature and no curvature: p = p0 exp(-z / H), and columns are dp / (m g)."""
    edges = torch.logspace(6, 2, 30, dtype=torch.float64)
    m, g = 3.8e-27, 20.0

    def cut(r, mu):
        given = (torch.tensor([v]).double() for v in (m, g, r))
        same = lambda p: torch.full((1, len(p)), 800.0).double()  # noqa: E731
        return atmosphere.layers(edges, same, *given, torch.tensor(mu))

    a = cut(7e13, [1.0, 0.5])
    H = 1.380649e-23 * 800 / (m * g)
    torch.testing.assert_close(
        a.thickness[0], H * (edges[:-1] / edges[1:]).log(), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(a.column[0], -edges.diff() / (m * g), rtol=1e-6, atol=0)
    torch.testing.assert_close(a.slant[1], 2 * a.slant[0], rtol=1e-5, atol=0)
    # With curvature: (R + z)² n dz still weighs dp, and gravity falls as 1 / r².
    z = cut(7e7, [1.0]).thickness.sum().item()
    exact = 1 / (1 / 7e7 - 1.380649e-23 * 800 / (m * g * 7e7**2) * np.log(1e4)) - 7e7
    assert z == pytest.approx(exact, rel=1e-8)  # heights come by differences


def test_no_layer_is_lighter_than_what_lies_above():
    s_theta = torch.tensor([[700.0, 900.0, 0.1, 0.05, 5.0]]).double()
    p = torch.logspace(2, 6.3, 200, dtype=torch.float64)[None]
    t = atmosphere.guillot(p, *(s_theta[:, [i]] for i in (4, 0, 1, 2, 3)))
    mixed = atmosphere.convective(p, t)
    slope = mixed.log().diff() / p.log().diff()
    assert (t.log().diff() / p.log().diff()).max() > 0.2495 and slope.max() < 2 / 7 + 1e-9
    steep = torch.exp(0.4 * p.log())
    torch.testing.assert_close(
        atmosphere.convective(p, steep), steep[:, :1] * (p / p[:, :1]) ** (2 / 7)
    )


def test_gradients_are_differences(tables):
    s = Spectrum(tables[0], tables[2], layers=6)
    theta = thetas(s, 2, seed=3)
    assert torch.autograd.gradcheck(
        lambda z: torch.asinh(s.flux(s.prior.from_unbounded(z)) / 1e-18),
        s.prior.to_unbounded(theta).requires_grad_(), eps=1e-6, atol=1e-4, rtol=1e-3,
    )  # fmt: skip


def test_rows_do_not_know_each_other(tables):
    s = Spectrum(tables[0], tables[2])
    theta = thetas(s, 6).float()
    both = torch.cat([s.simulate(theta[:2], None), s.simulate(theta[2:], None)])
    torch.testing.assert_close(s.simulate(theta, None), both, rtol=1e-5, atol=1e-6)


def test_noise_and_likelihood_agree(tables):
    """Noise of the stated size, and the density of x is that of a Gaussian flux."""
    s = Spectrum(tables[0], tables[2], snr=20, floor=1e-17)
    theta = thetas(s, 1)
    x = s.simulate(theta)
    noisy = s.noise(x.expand(20_000, -1), Key(0, range(20_000)))
    f, sigma = s.flux(theta)[0], s.error(s.flux(theta))[0]
    z = (s.flux_of(noisy) - f) / sigma
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    grid = torch.linspace(-12, 14, 40_001, dtype=torch.float64)
    for channel in (0, W - 1):
        y = torch.full((len(grid), W), torch.nan).double()
        y[:, channel] = grid
        density = s.log_likelihood(theta, y).exp()
        assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-6)


def test_flux_falls_with_the_square_of_distance(tables):
    near, far = (Spectrum(tables[0], tables[2], distance=d) for d in (10, 30))
    theta = thetas(near)
    torch.testing.assert_close(near.flux(theta), 9 * far.flux(theta))
    assert near.outputs.axes[0].unit == "um" and PARSEC == pytest.approx(3.0857e16, rel=1e-4)


@pytest.mark.skipif(not nemesis_tables.folder().is_dir(), reason="the study has fetched no tables")
def test_nemesispy_agrees():
    """Spectra that nemesispy 0.0.10 made (scripts/benchmarks/spectrum.py makes more of them)."""
    told = json.loads(PEER.read_text())
    s = make("spectrum", {"disc": "lobatto"})
    theta, flux = (torch.tensor(told[k]).double() for k in ("theta", "flux"))
    off = (s.flux(theta.float()).double() / flux - 1).abs()
    assert (off < 0.01).double().mean() >= 0.95 and off.median() < 1e-3


@pytest.mark.parametrize("kind", ["header", "cut", "gas", "nan", "grid", "twice", "missing"])
def test_bad_tables_are_named(tables, tmp_path, kind):
    kta, hdf, _ = tables
    path, said = tmp_path / "bad.kta", "bad.kta"
    raw = bytearray(kta[0].read_bytes())
    paths = [path]
    if kind == "header":
        raw[:8] = b"\xff" * 8
        said = "its header is not that of a NEMESIS"
    elif kind == "cut":
        raw = raw[:-40]
        said = "but its header announces .*truncated"
    elif kind == "gas":
        raw[32:36] = np.array(77, "<i4").tobytes()
        said = "gas number 77 is unknown"
    elif kind == "nan":
        raw[-4:] = np.array(np.nan, "<f4").tobytes()
        said = "1 of its absorptions are negative or not finite"
    elif kind == "grid":
        at = 40 + 8 * N + 8
        raw[at : at + 4] = np.array(1e-7, "<f4").tobytes()
        paths, said = [kta[1], path], "its grid of pressure is not that of CO2.kta"
    elif kind == "twice":
        paths, said = [kta[0], path], "a gas stands twice"
    else:
        with h5py.File(hdf[0], "a") as f:
            del f["weights"]
        paths, said = [hdf[0]], "it has no 'weights'"
    path.write_bytes(raw)
    with pytest.raises(BadInput, match=f"(?s){said}"):
        read_tables(paths)


def test_truncated_cia(tables):
    cia = tables[2]
    cia.write_bytes(cia.read_bytes()[:-100])
    with pytest.raises(BadInput, match=r"cia.tab: it is no table of NEMESIS.*truncated"):
        read_cia(cia)


def spectrum_file(path, wavelength, flux=None, head="# wavelength: um\n# flux: W m-2 um-1\n"):
    flux = np.full(len(wavelength), 2e-17) if flux is None else flux
    rows = "".join(f"{a} {f} 1e-18\n" for a, f in zip(wavelength, flux, strict=True))
    path.write_text(head + rows)
    return path


def test_a_real_spectrum_is_read_in_its_units(tmp_path):
    nm = spectrum_file(tmp_path / "a.txt", [1200, 1400], [3e-26, 4e-26],
                       "# wavelength: nm\n# flux: W m-2 Hz-1\n")  # fmt: skip
    found = read_spectrum(nm)
    np.testing.assert_allclose(found.wavelength, [1.2, 1.4])
    exact = np.array([3e-26, 4e-26]) * 299792458 / (found.wavelength * 1e-6) ** 2 * 1e-6
    np.testing.assert_allclose(found.flux, exact)
    cgs = read_spectrum(
        spectrum_file(
            tmp_path / "b.txt", [1.2], [1.0], "# wavelength: um\n# flux: erg s-1 cm-2 angstrom-1\n"
        )
    )
    assert cgs.flux[0] == pytest.approx(10.0)  # 1e-3 W m⁻² per 1e-4 µm


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1.2 1e-17 1e-18\n", "the unit of its wavelength is missing.*# wavelength: um"),
        ("# wavelength: um\n1.2 1 1\n", "the unit of its flux is missing"),
        ("# wavelength: um\n# flux: Jyy\n1 1 1\n", "unit 'Jyy' is unknown. Did you mean 'Jy'"),
        ("# wavelength: um\n# flux: Jy\n1.2 1\n", "line 3: 2 columns"),
        ("# wavelength: um\n# flux: Jy\n1.2 one 1\n", "line 3: '1.2 one 1' is no row"),
        ("# wavelength: um\n# flux: Jy\n1.2 inf 1\n", "line 3: flux is inf"),
        ("# wavelength: um\n# flux: Jy\n1.2 nan 1\n", "no channel of it has a finite flux"),
        ("# wavelength: um\n# flux: Jy\n1.2 1 0\n", "line 3: error is 0.*positive"),
        ("# wavelength: um\n# flux: Jy\n-1 1 1\n", "line 3: wavelength is -1"),
        ("# wavelength: um\n# flux: Jy\n1 1 1\n1 1 1\n", "a wavelength stands twice"),
        ("# wavelength: um\n# flux: Jy\n", "it has no rows"),
    ],
)  # fmt: skip
def test_bad_spectra_are_named(tmp_path, text, said):
    path = tmp_path / "spectrum.txt"
    path.write_text(text)
    with pytest.raises(BadInput, match=f"(?s)spectrum.txt.*{said}"):
        read_spectrum(path)


def test_channels_are_those_of_the_file(tables, tmp_path):
    """Adjoining bins are averaged over a channel's width; bands are taken as they are."""
    kta, hdf, cia = tables
    path = spectrum_file(tmp_path / "s.txt", [1.5, 2.5, 3.5])
    table = read_tables(hdf)
    b = binning(read_spectrum(path), table, path)
    np.testing.assert_allclose(b.sum(1), 1)
    np.testing.assert_allclose(b @ table.wavelength, [1.5, 2.5, 3.5], atol=0.2)
    seen = Spectrum(hdf, cia, observed=path)
    theta = thetas(seen)
    whole = Spectrum(hdf, cia).flux(theta)
    torch.testing.assert_close(seen.flux(theta), whole @ torch.from_numpy(b).T)
    assert seen.outputs.shape == (3,)
    error = seen.error(seen.flux(theta))
    torch.testing.assert_close(error, torch.full_like(error, 1e-18), rtol=1e-12, atol=0)
    x = seen.observation(path)
    torch.testing.assert_close(seen.flux_of(x), torch.full((3,), 2e-17), rtol=1e-5, atol=0)
    bands = Spectrum(kta, cia)
    some = spectrum_file(tmp_path / "some.txt", bands.tables.wavelength[[1, 3]])
    assert bands.observation(some).isfinite().tolist() == [False, True, False, True, False, False]
    bright = spectrum_file(tmp_path / "bright.txt", [1.5, 2.5, 3.5], [2e-16] * 3)
    assert seen.observation(bright).isfinite().all()  # its errors are those of the file
    bright = spectrum_file(tmp_path / "bright.txt", bands.tables.wavelength, [2e-16] * 6)
    with pytest.raises(BadInput, match=r"(?s)bright.txt.*errors are 0.243 times those of the sim"):
        bands.observation(bright)
    for lam, tables_, said in [
        (
            [1.5, 1.7, 9.0],
            hdf,
            r"1 of its 3 channels lie outside the opacity tables, the first at 9 µm",
        ),
        ([1.5, 2.7], kta, r"2 of its 2 channels lie outside.*bands at 1.2, "),
    ]:
        far = spectrum_file(tmp_path / "far.txt", lam)
        with pytest.raises(BadInput, match=f"(?s){said}"):
            Spectrum(tables_, cia, observed=far)
    with pytest.raises(BadInput, match="the width of its one channel is missing"):
        Spectrum(hdf, cia, observed=spectrum_file(tmp_path / "one.txt", [1.5]))
    with pytest.raises(BadInput, match=r"no bin of the tables lies in 8-9 µm"):
        Spectrum(kta, cia, wavelengths=(8, 9))


def test_another_wheel_is_refused(tmp_path):
    wheel = tmp_path / "nemesispy.whl"
    wheel.write_bytes(b"something else")
    with pytest.raises(BadInput, match=r"nemesispy.whl: its SHA-256 is"):
        nemesis_tables.unpack(wheel, tmp_path / "out")
    assert not (tmp_path / "out").exists()
