r"""The samples that `train` and `encode` draw from a store: windows as they are, or mixed."""

from __future__ import annotations

__all__ = ["archive", "latitude_longitude", "mixed", "read_through", "static_fields"]

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import BadInput, nearest
from ..io.store import TrajectoryStore
from ..training.config import MixingConfig

if TYPE_CHECKING:
    from ..training.data import MixedDataset, WindowDataset
    from .base import Context


class Anomalies:
    r"""A store whose standardised states have the spread of a year that was not trained on.

    Training anomalies are measured from the mean of their own years and are too small by the
    statistics' `shrinkage`; a prior learnt from them as they are would be over-confident.
    """

    def __init__(self, store: TrajectoryStore) -> None:
        self._store = store

    def __getattr__(self, name: str):
        return getattr(self._store, name)

    def standardised(self, start: int, stop: int) -> np.ndarray:
        s = self._store.statistics
        x = self._store.standardised(start, stop)
        if s is None:
            return x
        k = s.shrinkage[s.phase(range(start, stop))].astype(x.dtype)
        return x / k.reshape(-1, *[1] * (x.ndim - 1))


def read_through(ctx: Context, look: Callable[[int, int], None], start: int, stop: int) -> None:
    r"""Looks at all that is to be learnt from before anything is, each rank at its share.

    Not again where a checkpoint shows that it has been done.

    Arguments:
        look: Reads what lies in [start, stop) and raises BadInput for what is damaged.
        start, stop: All of it.

    Raises:
        BadInput: On every rank, what the first of those that found something has to say.
    """
    begun = [
        *ctx.folder.glob("checkpoints/latest"),
        *ctx.folder.glob("seeds/*/checkpoints/latest"),
    ]
    if ctx.world.broadcast(bool(begun)):
        return
    ctx.progress.begin("reading what it is to learn from")
    found = None
    try:
        look(*ctx.world.share(start, stop))
    except BadInput as e:
        found = e
    told = [e for e in ctx.world.all_gather(found) if e is not None]
    if told:
        raise told[0]


def archive(
    store: TrajectoryStore,
    window: int,
    within: tuple[int, int] | None,
    time_steps: Sequence[int] = (1,),
) -> WindowDataset:
    r"""All windows of a store's training frames."""
    from ..training.data import WindowDataset

    return WindowDataset(Anomalies(store), window, within, time_steps)


def mixed(windows: WindowDataset, fields: MixingConfig, seed: int, size: int) -> MixedDataset:
    r"""Endless localised mixtures of them.

    Arguments:
        size: Draws called an epoch.
    """
    from ..training.augmentation import LocalisedMixing
    from ..training.data import MixedDataset

    lat, lon = latitude_longitude(windows.store)
    mixing = LocalisedMixing(
        windows.array(),
        lat,
        lon,
        length_km=fields.length_km,
        terms=fields.terms,
        bank=fields.bank,
        seed=seed,
        mask=windows.store.mask,
    )
    return MixedDataset(mixing, windows, size)


def static_fields(store: TrajectoryStore, names: list[str]) -> np.ndarray:
    r"""Fields that do not change, standardised, with shape :math:`(S, *grid)`.

    Raises:
        BadInput: If the store has no such field.
    """
    known = dict(store.static)
    if store.mask is not None:
        known["mask"] = store.mask
    if store.below is not None:
        known["floor"] = 1 - store.below.mean(0)  # the share of the channels above it
    for axis, (name, x) in enumerate(store.coords.items()):
        if store.coord_attrs[name].get("standard_name") == "latitude":
            shape = [-1 if k == axis else 1 for k in range(len(store.grid))]
            known["latitude"] = np.broadcast_to(np.sin(np.deg2rad(x)).reshape(shape), store.grid)
    out = []
    for name in names:
        if name not in known:
            raise BadInput(
                f"'model.static': no field '{name}'", store.folder, nearest(name, known)
            )
        x = np.asarray(known[name], np.float32)
        out.append((x - x.mean()) / max(float(x.std()), 1e-6))
    return np.stack(out) if out else np.zeros((0, *store.grid), np.float32)


def latitude_longitude(store: TrajectoryStore) -> tuple[np.ndarray, np.ndarray]:
    r"""Latitudes and longitudes of a store's grid.

    Raises:
        BadInput: If the grid has none.
    """
    found = {store.coord_attrs[k].get("standard_name"): v for k, v in store.coords.items()}
    try:
        return found["latitude"], found["longitude"]
    except KeyError:
        raise BadInput(
            "localised mixing needs latitude and longitude",
            store.folder,
            f"The store's axes are {list(store.coords)}: leave out 'augmentation'.",
        ) from None
