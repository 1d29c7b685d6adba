r"""Observing networks for OSSEs: tables drawn from a trajectory that is known.

Every draw is keyed by the seed and the frame's number in the truth's store, so that a table
does not depend on which other frames are observed, on their order or on the number of ranks.
"""

from __future__ import annotations

__all__ = ["draw", "random_points"]

from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import BadInput, nearest
from ..models.sphere import EARTH_RADIUS_KM, unit_vectors
from .clouds import hidden
from .networks_config import RandomPoints
from .operators import Operator
from .places import Places, places
from .table import COLUMNS, FURTHER, ObservationTable

MOST = 6000  # places of a frame whose correlated noise is drawn through a dense factor


def random_points(truth: Any, *, start: int, stop: int, seed: int = 0, **fields: Any):
    r"""`draw` of `hpcinv.observations.config.RandomPoints` with some fields."""
    return draw(RandomPoints(**fields), truth, start=start, stop=stop, seed=seed)


def draw(
    network: Any,
    truth: Any,
    *,
    start: int,
    stop: int,
    seed: int = 0,
    within: range | None = None,
) -> ObservationTable:
    r"""What a network sees of the truth, with noise.

    Arguments:
        network: A network of `hpcinv.observations.config`.
        truth: A trajectory store (`.read`, `.channels`, `.units`, `.grid`, `.coords`, `.time`,
            `.time_units`, `.calendar`, `.mask`); frames are read one by one.
        start, stop: Frames of the store that are analysed: frame `start` becomes frame 0.
        seed: Key of the draws.
        within: Keep only these frames, counted from `start`; there may be none observed.

    Returns:
        A table of places × variables rows for each observed frame.

    Raises:
        BadInput: For unknown variables, frames outside the store, a network that does not fit
            the grid, or a truth that is not finite where it is observed.
    """
    from ..diffusion.noise import generator

    derived = {d.name: d for d in network.forward.derived}
    names = [*truth.channels, *derived]
    seen = list(truth.channels) if network.channels is None else list(network.channels)
    error = network.error
    covered = [] if network.clouds is None else network.clouds.channels or []
    for name in [*seen, *(error if isinstance(error, dict) else ()), *covered]:
        if name not in names:
            raise BadInput(f"unknown variable '{name}'", "channels", nearest(name, names))
    missing = [n for n in seen if isinstance(error, dict) and n not in error]
    if missing:
        raise BadInput(f"no error for '{missing[0]}'", "error", "Give σ for each channel seen.")
    if not 0 <= start < stop <= truth.length:
        raise BadInput(
            f"frames {start} to {stop - 1} of a store of {truth.length}",
            "observed frames",
            f"Give frames between 0 and {truth.length - 1}.",
        )
    if network.forward.time == "linear" and network.network not in ("tracks", "orbit"):
        raise BadInput(
            "this network observes at the frames' own times",
            "observing: forward: time",
            "Leave it at nearest.",
        )
    index = np.array([names.index(n) for n in seen])
    sigma = np.array([error[n] if isinstance(error, dict) else error for n in seen], float)
    where = places(network, truth, seed)
    rows: dict[str, list[np.ndarray]] = {k: [] for k in COLUMNS}
    for t in _observed(network, start, stop, seed):
        if within is not None and t - start not in within:
            continue
        rng = generator(seed, "observe", t)
        p = where(t, rng)
        noise = _noise(network, p, seen, sigma, t, rng, seed)
        clear = np.ones(noise.shape, bool)
        if network.clouds is not None:
            of = [network.clouds.channels is None or n in network.clouds.channels for n in seen]
            clear[np.ix_(hidden(network.clouds, p.lat, p.lon, t, seed=seed), of)] = False
        for key, column in (
            ("frame", t - start),
            ("channel", index[None]),
            ("point", p.point[:, None]),
            ("value", noise),
            ("error", sigma[None]),
            ("lat", p.lat[:, None]),
            ("lon", p.lon[:, None]),
            ("time", p.time[:, None]),
            ("station", p.station[:, None]),
        ):
            rows[key].append(np.broadcast_to(column, noise.shape)[clear])
    if not sum(map(len, rows["frame"])):
        if within is None:
            raise BadInput(
                "no frame is observed", "observing", "Leave out gaps, missing frames or clouds."
            )
        rows = {k: [np.zeros(0)] for k in rows}  # a block of a whole that may have some
    table = ObservationTable(
        **{k: np.concatenate(v) for k, v in rows.items()},
        channels=tuple(truth.channels),
        units=tuple(truth.units),
        time_units=truth.time_units,
        calendar=truth.calendar,
        forward=network.forward,
    )
    return _seen(table, truth, start, stop - start)


def _seen(noise: ObservationTable, truth: Any, start: int, length: int) -> ObservationTable:
    r"""What the rows see of the truth, added to the noise that they hold."""
    operator = Operator(noise, truth, start, length)
    value = noise.value.copy()
    for f in np.unique(noise.frame):
        rows = operator.rows([int(f)])
        y = operator.see(lambda k: truth.read(start + k, start + k + 1)[0], [int(f)])
        bad = ~np.isfinite(y)
        if bad.any():
            c = noise.variables[int(noise.channel[rows[int(np.argmax(bad))]])]
            raise BadInput(
                f"the truth '{c}' is not finite at frame {start + int(f)}", "observed frames"
            )
        value[rows] = y + value[rows]
    columns = {c: getattr(noise, c) for c in COLUMNS | FURTHER}
    return replace(noise, **columns | {"value": value})


def _observed(network: Any, start: int, stop: int, seed: int) -> list[int]:
    from ..diffusion.noise import generator

    out = []
    for t in range(start, stop, network.every):
        if any(a <= t - start < b for a, b in network.gaps):
            continue
        if network.missing and generator(seed, "missing frame", t).random() < network.missing:
            continue
        out.append(t)
    return out


def _noise(network, p: Places, seen, sigma, t: int, rng, seed: int) -> np.ndarray:
    r"""Noise of one frame, (places, variables)."""
    from ..diffusion.noise import generator

    how, n = network.noise, len(p.point)
    white = rng.standard_normal((n, len(seen)))
    if how.persistence:  # a sum over the past, from the platform's own numbers
        white = np.zeros((n, len(seen)))
        rho = how.persistence
        for lag in range(int(np.ceil(np.log(1e-6) / np.log(rho))) + 1):
            of = _by_platform(p, seed, "noise", t - lag, len(seen))
            white += np.sqrt(1 - rho**2) * rho**lag * of
    if how.length_km is not None and n:
        if n > MOST:
            raise BadInput(
                f"correlated noise of {n} places of a frame", "noise: length_km",
                f"At most {MOST}: observe less, or write length_km: null.",
            )  # fmt: skip
        if np.isnan(p.lat).any():
            raise BadInput("no geography for correlated noise", "noise: length_km")
        x = EARTH_RADIUS_KM * unit_vectors(p.lat, p.lon)
        r = np.sqrt(np.maximum(((x[:, None] - x[None]) ** 2).sum(-1), 0))
        S = np.exp(-r / how.length_km)
        S[np.diag_indices(n)] += 1e-9  # two reports from one place
        white = np.linalg.cholesky(S) @ white
    noise = white * (how.factor * sigma)
    bias = [how.bias.get(c, 0.0) if isinstance(how.bias, dict) else how.bias for c in seen]
    if any(bias):
        noise = noise + np.array(bias)
    if how.station_bias:
        own = np.empty_like(noise)
        for k in np.unique(p.platform):
            g = generator(seed, "station bias", int(k))
            own[p.platform == k] = g.standard_normal(len(seen))
        noise = noise + how.station_bias * sigma * own
    return noise


def _by_platform(p: Places, seed: int, purpose: str, t: int, C: int) -> np.ndarray:
    from ..diffusion.noise import generator

    out = np.empty((len(p.point), C))
    for k in np.unique(p.platform):
        at = np.flatnonzero(p.platform == k)
        out[at] = generator(seed, purpose, int(k), t).standard_normal((len(at), C))
    return out
