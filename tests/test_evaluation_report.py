r"""The report: self-contained, honest in words, for any grid; maps where they should be."""

import base64
import io
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from hpcinv.errors import BadInput
from hpcinv.evaluation import charts
from hpcinv.evaluation.coastline import coastlines
from hpcinv.evaluation.figures import frame_names, telling_frames, views
from hpcinv.evaluation.innovations import InnovationSums, summary
from hpcinv.evaluation.maps import Canvas, equal_earth
from hpcinv.evaluation.physics import checks
from hpcinv.evaluation.report import picture, report
from hpcinv.evaluation.scores import scorecard
from hpcinv.evaluation.spectra import spectrum
from hpcinv.evaluation.sums import evaluate
from hpcinv.evaluation.words import unit_text, verdict
from hpcinv.observations.networks import random_points

L, M = 6, 4
WIND = {"u": "eastward_wind", "v": "northward_wind"}


class Store(SimpleNamespace):
    def read(self, start, stop):
        return self.x[start:stop]

    def weights(self):
        return np.ones(self.grid)

    def dates(self):
        import cftime

        return cftime.num2date(self.time, self.time_units, self.calendar)


class Reader(SimpleNamespace):
    def read(self, member, start, stop):
        return self.x[member, start:stop]


def store(
    coords, channels=("u", "v"), units=("m s-1", "m s-1"), time_units="days since 2001-01-15"
):
    grid = tuple(len(c) for c in coords.values())
    x = np.random.default_rng(0).standard_normal((L, len(channels), *grid)).astype(np.float32)
    names = {"lat": "latitude", "lon": "longitude"}
    return Store(
        x=x,
        length=L,
        channels=list(channels),
        units=list(units),
        grid=grid,
        coords=coords,
        coord_attrs={k: {"standard_name": names[k]} if k in names else {} for k in coords},
        standard_names=[WIND.get(c) for c in channels],
        long_names=[None] * len(channels),
        time=np.arange(L) * 30.5,
        time_units=time_units,
        calendar="standard",
        mask=None,
    )


GLOBE = {"lat": np.linspace(-90, 90, 13), "lon": np.arange(0, 360, 15.0)}
REGION = {"lat": np.linspace(41, 46.5, 12), "lon": np.linspace(27, 42, 20)}
GRIDS = {
    "globe": store(GLOBE),
    "region": store(
        {"lat": np.linspace(41, 46.5, 12), "lon": np.linspace(27, 42, 20)}, ["t"], ["K"]
    ),
    "box": store({"y": np.arange(16.0), "x": np.arange(16.0)}, ["w"], ["1"], time_units="1"),
    "line": store({"site": np.arange(40.0)}, ["x"], ["1"], time_units="1"),
    "column": store({"z": np.arange(3.0), "y": np.arange(8.0), "x": np.arange(9.0)}, ["o"], ["K"]),
}


def ensembles(truth, **offsets):
    rng = np.random.default_rng(1)
    out = {}
    for name, (error, spread) in offsets.items():
        centre = truth.x + error * rng.standard_normal(truth.x.shape)
        x = centre + spread * rng.standard_normal((M, *truth.x.shape))
        out[name] = Reader(x=x.astype(np.float32))
    return out


def card_of(truth, results, units=None):
    fields = {"spectrum": spectrum(truth), "checks": checks(truth)}
    zero = np.zeros((len(truth.channels), *truth.grid))
    sums = {
        n: evaluate(
            r, truth, members=range(M), length=L, truth_start=0, threshold=lambda t: zero, **fields
        )
        for n, r in results.items()
    }
    return scorecard(
        sums, channels=truth.channels, units=units or truth.units, replicates=200, **fields
    )


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.images, self.open, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key in ("src", "href", "srcset", "action", "data"):
                self.links.append(value)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        self.words.append(data)


def departures(units):
    r"""What a job finds of observations of every frame but one."""
    rng = np.random.default_rng(0)
    sums = InnovationSums.zeros(L, 2, M)
    of = np.arange(20) < np.array([[14], [20]])
    of[1] ^= of[0]
    for f in range(1, L):
        y, x, b = (s * rng.standard_normal(n) for s, n in ((1, 20), (1, (M, 20)), (2, (M, 20))))
        sums.add(f, of, y, np.ones(20), x, b)
    return summary(
        ["u, used", "u, withheld"], sums, units={"u": units}, background=True, members=M,
        replicates=20,
    )  # fmt: skip


@pytest.mark.parametrize("grid", GRIDS)
def test_a_page_for_any_grid_asks_nothing_of_the_network(grid, tmp_path):
    from PIL import Image

    truth = GRIDS[grid]
    results = ensembles(truth, diffusion=(0.3, 0.3), climatology=(1.0, 1.0))
    table = random_points(truth, start=0, stop=L, points=5, error=0.5)
    card = card_of(truth, results) | {"innovations": departures("m s-1")}
    line = {"crps": [0.1, 0.2], "vrmse": [0.3, 0.9]}
    card["forecast"] = {"lead": 2, "methods": {"diffusion": line}, "kept": line}
    path = report(
        tmp_path / "report" / "report.html",
        title="Winds <of> 1991 & 1992",
        results={"diffusion": results["diffusion"]},
        members=range(M),
        truth=truth,
        truth_start=0,
        length=L,
        card=card,
        table=table,
        width=300,
        provenance={"versions": {"hpcinv": "0.1.0"}, "seeds": [0, 1], "inputs": {"a<b": "c&d"}},
    )
    text = path.read_text()
    page = Page(text)
    assert page.open == [] and page.images
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "<script" not in text and "@import" not in text and "url(" not in text
    for image in page.images:
        png = Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1])))
        seen = np.unique(np.asarray(png.convert("RGBA")).reshape(-1, 4), axis=0)
        assert len(seen) > 3 and image["alt"]
    words = " ".join(page.words)
    for expected in ("Can I trust this?", "Winds <of> 1991 & 1992", "a<b", "c&d", "climatology"):
        assert expected in words
    plane = 1 <= len(truth.grid) <= 2
    assert ("Scales and balance" in words) == plane and "Reliability" in words
    for expected in ("Departures from the observations", "u, withheld", "χ² of every frame",
                     "Forecasts by lead time", "last frame, kept"):  # fmt: skip
        assert expected in words
    assert ("divergence" in words) == (grid == "globe")
    if plane:
        assert text.count('aria-label="power spectrum by') == len(truth.channels)
    assert len(text) < 4e6 and "nan" not in text.replace("data:image", "").lower().split("<svg")[1]


def test_the_globe_has_a_vector_view_with_arrows_and_the_others_their_channels():
    assert [v.channels for v in views(GRIDS["globe"])] == [(0, 1), (0,), (1,)]
    assert [v.channels for v in views(GRIDS["region"])] == [(0,)]
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 5))
    v = views(GRIDS["globe"])[0]
    assert np.allclose(v.of(x), np.hypot(x[:, 0], x[:, 1]))
    named = store(GLOBE, ["UWND", "VWND"])
    named.standard_names = ["eastward_wind", "northward_wind"]
    assert views(named)[0].name == "Wind: speed and direction"
    odd = store(GLOBE, ["u", "v"], ["m s-1", "K"])
    assert [v.channels for v in views(odd)] == [(0,), (1,)]


def pixels(png):
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA")).astype(int)


def test_a_map_puts_values_where_they_are():
    r"""A hot cell at 30°E 45°N shows there, at its Equal Earth place, and nowhere else."""
    canvas = Canvas(GRIDS["globe"], 600)
    z = np.zeros((13, 24))
    z[9, 2] = 1.0  # 45°N, 30°E
    a = pixels(canvas.field(z, cmap="gray", low=0, high=1))
    cold = pixels(canvas.field(0 * z, cmap="gray", low=0, high=1))
    hot = np.argwhere(np.abs(a - cold).sum(-1) > 300)
    h, w = a.shape[:2]
    x, y = equal_earth(np.array(30.0), np.array(45.0))
    row, column = hot.mean(0)
    assert column / w == pytest.approx(0.5 + x / 5.44, abs=0.01)
    assert row / h == pytest.approx(0.5 - y / 2.675, abs=0.015)
    assert a[2, 2, 3] == 0 and a[h // 2, w // 2, 3] == 255  # transparent outside the world


def test_equal_earth_keeps_areas():
    r"""Area of a projected cell over its area on the sphere is the same everywhere."""

    def ratio(lat, lon, d=0.05):
        corners = [(-d, -d), (d, -d), (d, d), (-d, d)]
        x, y = equal_earth(*np.array([(lon + a, lat + b) for a, b in corners]).T)
        area = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
        top, low = np.sin(np.deg2rad(lat + d)), np.sin(np.deg2rad(lat - d))
        return area / (np.deg2rad(2 * d) * (top - low))

    values = [ratio(lat, lon) for lat in (-80, -45, 0, 30, 70) for lon in (-170, 0, 90)]
    assert np.ptp(values) / np.mean(values) < 1e-4


def test_coastlines_are_the_worlds():
    lines = coastlines()
    every = np.concatenate(lines)
    assert len(lines) > 100 and np.abs(every[:, 0]).max() <= 180 and every[:, 1].max() < 84

    def near(lon, lat):
        return np.hypot(every[:, 0] - lon, every[:, 1] - lat).min()

    assert near(-9.5, 38.7) < 1 and near(18.4, -34.2) < 1  # Lisbon, the Cape
    assert near(-30, 30) > 10 and near(90, 50) > 10  # mid-Atlantic, Siberia


def test_words_name_the_better_baseline():
    truth = store(GLOBE)
    results = ensembles(truth, diffusion=(0.5, 0.5), OI=(0.3, 0.3), climatology=(1.0, 1.0))
    v = verdict(card_of(truth, results))
    assert v.headline == "Yes, but a simpler method does better here." and v.level == "fair"
    rival = next(f for f in v.findings if "simpler" in f.question)
    assert "The better one is OI" in rival.text and rival.answer == "Not all of them"
    first = next(iter(results))
    assert first == "diffusion"


CLIM = {"climatology": (1, 1)}
WORDS = {
    "good": ({"d": (0.3, 0.3), "OI": (0.5, 0.5)} | CLIM, "Yes: it is accurate", "good"),
    "no better than climatology": ({"d": (1.2, 1.2)} | CLIM, "No. It is not", "poor"),
    "too sure": ({"d": (0.5, 0.1), "OI": (0.8, 0.8)} | CLIM, "The mean, yes; its unc", "fair"),
    "too unsure": ({"d": (0.2, 0.9), "OI": (1.0, 0.8)} | CLIM, "The mean, yes; its unc", "fair"),
    "as good": ({"d": (0.5, 0.5), "OI": (0.5, 0.5)} | CLIM, "Yes, though", "fair"),
}


@pytest.mark.parametrize("case", WORDS)
def test_headlines_follow_from_the_numbers(case):
    methods, headline, level = WORDS[case]
    truth = store(GLOBE)
    v = verdict(card_of(truth, ensembles(truth, **methods)))
    assert v.headline.startswith(headline) and v.level == level
    text = " ".join(f.text for f in v.findings)
    if case == "too sure":
        assert "too sure of themselves" in text and "far from flat" in text
    if case == "too unsure":
        assert "too unsure of themselves" in text
    if case == "no better than climatology":
        assert "no improvement is shown" in text
    if case == "good":
        assert "No bias is seen" in text and "This method is better" in text


def test_bias_is_told():
    truth = store(GLOBE)
    results = ensembles(truth, d=(0.1, 0.1), climatology=(1, 1))
    results["d"].x -= 0.5
    text = verdict(card_of(truth, results)).findings[0].text
    assert re.search(r"biased by −0\.5\d? \(−0\.\d+ to −0\.\d+\)", text)


def test_frames_are_chosen_by_rule_and_named():
    assert telling_frames([3.0, 1.0, 2.0, 9.0, 2.5]) == (4, 3)
    assert frame_names(GRIDS["globe"], 1, 3) == ["February 2001", "March 2001"]
    assert frame_names(GRIDS["line"], 0, 2) == ["frame 0", "frame 1"]
    hourly = store(GLOBE, time_units="hours since 2001-01-15")
    hourly.time = np.arange(L) * 6.0
    assert frame_names(hourly, 1, 2) == ["2001-01-15 06:00"]


def test_units_as_people_write_them():
    assert (
        unit_text("m s-1") == "m\u00a0s⁻¹" and unit_text("M/S") == "m/s" and unit_text("K") == "K"
    )
    assert unit_text("1") == "" and unit_text("kg m-2") == "kg\u00a0m⁻²"


def test_charts_place_their_marks():
    svg = charts.bars([0.5, 0.25, 0.25], "t")
    heights = [float(h) for h in re.findall(r'class="bar".*?height="([\d.]+)"', svg)]
    assert heights[0] == pytest.approx(2 * heights[1], rel=0.01) and len(heights) == 3
    assert charts.ticks(0, 10) == [0, 2, 4, 6, 8, 10] and charts.ticks(-1, 1) == [
        -1,
        -0.5,
        0,
        0.5,
        1,
    ]
    assert charts.label(-0.5) == "−0.5"


def test_scores_of_another_method_are_refused(tmp_path):
    truth = GRIDS["line"]
    results = ensembles(truth, a=(0.3, 0.3), b=(1, 1))
    with pytest.raises(BadInput, match="scores of 'a' in a report on 'b'"):
        report(
            tmp_path / "r.html", title="t", results={"b": results["b"]}, members=range(M),
            truth=truth, truth_start=0, length=L, card=card_of(truth, results),
        )  # fmt: skip


def test_provenance_of_alike_jobs_is_a_table():
    from hpcinv.evaluation.report import tree

    jobs = {n: {"kind": "train", "seed": k} for k, n in enumerate(("one_a", "two", "three"))}
    node = tree({"Jobs": jobs, "commit": "ab" * 20})
    (name, table), (_, commit) = node["items"]
    assert name == "Jobs" and table["columns"] == ["kind", "seed"]
    assert table["rows"][0] == ("one_a", ["train", "0"]) and commit["text"] == "ab" * 20
    assert tree({"a": 1, "b": [1, 2]})["items"][1][1] == {"text": "1, 2"}


def test_picture_for_the_readme(tmp_path):
    from PIL import Image

    truth = GRIDS["globe"]
    results = ensembles(truth, a=(0.3, 0.3))
    path = picture(
        tmp_path / "docs" / "winds.png", results=results, members=range(M), truth=truth,
        truth_start=0, frame=2, table=random_points(truth, start=0, stop=L, points=5),
    )  # fmt: skip
    assert path.stat().st_size < 300_000 and Image.open(path).size[0] == 1100


def test_winds_of_one_level_make_a_vector():
    from types import SimpleNamespace

    levels, names, standard = (250, 850), [], []
    for part, name in (("u", "eastward_wind"), ("v", "northward_wind")):
        names += [f"{part}_component_of_wind_{p}" for p in levels]
        standard += [name] * len(levels)
    store = SimpleNamespace(
        channels=[*names, "t"], standard_names=[*standard, None], long_names=[None] * 5,
        units=["m s-1"] * 4 + ["K"], grid=(4, 8),
    )  # fmt: skip
    assert [v.channels for v in views(store)[:2]] == [(0, 2), (1, 3)]
    chosen = views(store, [names[1], names[3], "t"])
    assert [v.channels for v in chosen] == [(1, 3), (1,), (3,), (4,)]
    with pytest.raises(BadInput, match="no channel 'tt'"):
        views(store, ["tt"])
