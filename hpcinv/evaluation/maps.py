r"""Maps of fields: projection, coastlines, observed points and arrows, as small PNG images.

Images carry no text, so that a page sets titles and scales in its own type and colours, in
light and dark. World maps use the Equal Earth projection, on which areas are true (Šavrič,
Patterson & Jenny 2018, doi:10.1080/13658816.2018.1504949); regions are drawn in degrees.
"""

from __future__ import annotations

__all__ = ["Canvas", "equal_earth"]

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from .coastline import coastlines

INK = "#22262b"


def equal_earth(lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Equal Earth coordinates of longitudes and latitudes in degrees, on a unit sphere."""
    a1, a2, a3, a4 = 1.340264, -0.081106, 0.000893, 0.003796
    m = np.sqrt(3) / 2
    p = np.arcsin(m * np.sin(np.deg2rad(lat)))
    p2 = p * p
    p6 = p2**3
    slope = a1 + 3 * a2 * p2 + p6 * (7 * a3 + 9 * a4 * p2)
    return np.deg2rad(lon) * np.cos(p) / (m * slope), p * (a1 + a2 * p2 + p6 * (a3 + a4 * p2))


def edges(x: np.ndarray) -> np.ndarray:
    r"""Cell bounds midway between centres."""
    mid = (x[1:] + x[:-1]) / 2
    return np.concatenate([[1.5 * x[0] - x[1] / 2], mid, [1.5 * x[-1] - x[-2] / 2]])


@dataclass
class Canvas:
    r"""Draws fields of one grid, all alike.

    Arguments:
        store: Anything with `.grid`, `.coords`, `.coord_attrs` and `.mask`. Two coordinates that
            are latitude and longitude make a map, two others an image, one a line.
        width: Width of the images in pixels.
    """

    store: Any
    width: int = 1000

    def __post_init__(self) -> None:
        kinds = [
            self.store.coord_attrs.get(n, {}).get("standard_name", n) for n in self.store.coords
        ]
        short = [{"lat": "latitude", "lon": "longitude"}.get(k, k) for k in kinds]
        self.axes = list(self.store.coords.values())
        self.geographic = short == ["latitude", "longitude"]
        if self.geographic:
            lat, lon = self.axes
            step = abs(lon[1] - lon[0])
            self.globe = len(lon) * step > 359 and np.ptp(lat) > 120

    def field(
        self,
        values: np.ndarray,
        *,
        cmap: str,
        low: float,
        high: float,
        points: np.ndarray | None = None,
        arrows: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> bytes:
        r"""A PNG of one field.

        Arguments:
            values: With the grid's shape.
            cmap: A matplotlib colour map, shown from `low` to `high`.
            points: Flat indices of grid points to mark.
            arrows: Eastward and northward components to draw over the field.
        """
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib.figure import Figure

        if self.store.mask is not None:
            values = np.where(self.store.mask, values, np.nan)
        ratio = self._ratio()
        fig = Figure(figsize=(10, 10 * ratio), dpi=self.width / 10)
        ax = fig.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
        self._paint(ax, values, cmap, low, high, points, arrows)
        return _png(fig)

    def _ratio(self) -> float:
        if not self.geographic:
            return 0.35 if len(self.axes) == 1 else float(self.store.grid[0] / self.store.grid[1])
        if self.globe:
            return 0.487 * 1.01
        lat, lon = self.axes
        height, width = np.ptp(edges(lat)), np.ptp(edges(lon))
        return float(height / (width * np.cos(np.deg2rad(np.mean(lat)))))

    def _paint(self, ax, values, cmap, low, high, points=None, arrows=None) -> None:
        look = {"cmap": cmap, "vmin": low, "vmax": high, "rasterized": True}
        if len(self.axes) == 1:
            # A line has no colours: drawn in one that reads on light and on dark paper.
            ax.axhline(0.0, color="#8a9099", lw=0.8)
            ax.plot(self.axes[0], values, color="#3b82c4", lw=2.0)
            margin = 0.4 * (high - low)
            ax.set_ylim(low - margin, high + margin)
            if points is not None:
                ax.plot(self.axes[0][points], values[points], "o", color="#d9662b", ms=7)
        elif len(self.axes) > 2:
            level = (0,) * (values.ndim - 2)  # the first level stands for the column
            ax.imshow(values[level], **look)
        elif not self.geographic:
            ax.imshow(values, origin="lower", interpolation="nearest", **look)
            if points is not None:
                y, x = np.unravel_index(points, self.store.grid)
                ax.plot(x, y, ".", color=INK, ms=3)
        else:
            self._map(ax, values, look, points, arrows)

    def _map(self, ax, values, look, points, arrows) -> None:
        from matplotlib.collections import LineCollection

        lat, lon = self.axes
        project = equal_earth if self.globe else (lambda x, y: (x, y))
        x, y, z = self._cells(lat, lon, values)
        if self.globe:
            # Few cells are enough for colours, but the map's edge should be smooth.
            y = np.clip(y, -90, 90)
        X, Y = project(*np.meshgrid(x, y))
        ax.pcolormesh(X, Y, z, shading="flat", antialiased=False, **look)
        lines = [np.stack(project(line[:, 0], line[:, 1]), -1) for line in self._coast(lon)]
        halo = LineCollection(lines, colors="white", linewidths=1.8, alpha=0.45)
        ax.add_collection(halo)
        ax.add_collection(LineCollection(lines, colors=INK, linewidths=0.8))
        if points is not None:
            i, j = np.unravel_index(points, self.store.grid)
            px, py = project(self._shift(lon[j]), lat[i])
            mark = {"ms": 4.5, "mec": "white", "mew": 0.6, "color": INK}
            ax.plot(px, py, "o", **mark)
        if arrows is not None:
            self._arrows(ax, project, lat, lon, arrows)
        if self.globe:
            around = np.linspace(-90, 90, 181)
            side = equal_earth(np.full(181, 180.0), around)
            outline = np.concatenate(
                [np.stack(side, -1), np.stack(side, -1)[::-1] * [-1, 1], np.stack(side, -1)[:1]]
            )
            ax.plot(*outline.T, color="#8a9099", lw=1.0, clip_on=False)
            ax.set_xlim(-2.72, 2.72)
            ax.set_ylim(-1.3375, 1.3375)
        else:
            ax.set_xlim(X.min(), X.max())
            ax.set_ylim(Y.min(), Y.max())
            ax.set_aspect("auto")

    def _shift(self, lon: np.ndarray) -> np.ndarray:
        return (np.asarray(lon) + 180.0) % 360.0 - 180.0 if self.globe else np.asarray(lon)

    def _cells(self, lat, lon, values):
        r"""Cell bounds and values; a world map's cells from −180° to 180°, one cut in two."""
        if not self.globe:
            return edges(lon), edges(lat), values
        shifted = self._shift(lon)
        order = np.argsort(shifted)
        bounds = edges(shifted[order])
        z = values[:, order]
        if bounds[0] < -180:
            # The first cell straddles the date line: its western half is the last one.
            z = np.concatenate([z, z[:, :1]], 1)
            bounds = np.concatenate([[-180.0], bounds[1:], [180.0]])
        else:
            bounds[0], bounds[-1] = -180.0, 180.0
        return bounds, edges(lat), z

    def _coast(self, lon: np.ndarray) -> list[np.ndarray]:
        lines = list(coastlines())
        if not self.globe and lon.max() > 180:  # longitudes from 0 to 360
            lines += [line + np.array([360.0, 0.0]) for line in lines]
        return lines

    def _arrows(self, ax, project, lat, lon, arrows) -> None:
        u, v = arrows
        rows = np.arange(len(lat))
        rows = rows[(np.abs(lat[rows]) < 80)]
        step = max(1, round(len(lon) / 36)), max(1, round(len(lat) / 18))
        rows = rows[:: step[1]]
        for i in rows:  # fewer arrows in a row where the row is shorter
            thin = step[0] * max(1, round(1 / max(np.cos(np.deg2rad(lat[i])), 0.2)))
            j = np.arange(int(thin) // 2, len(lon), int(thin))
            x0, y0 = project(self._shift(lon[j]), np.full(len(j), lat[i]))
            eps = 0.5
            east = eps / np.cos(np.deg2rad(lat[i]))
            xe, ye = project(self._shift(lon[j]) + east, np.full(len(j), lat[i]))
            xn, yn = project(self._shift(lon[j]), np.full(len(j), lat[i] + eps))
            a = u[i, j] * (xe - x0) + v[i, j] * (xn - x0)
            b = u[i, j] * (ye - y0) + v[i, j] * (yn - y0)
            if self.store.mask is not None:
                a = np.where(self.store.mask[i, j], a, np.nan)
            size = self._arrow_scale(project, arrows)
            ax.quiver(
                x0, y0, a, b, color=INK, pivot="mid", scale=size, scale_units="width",
                width=0.0016, headwidth=4, headlength=4.5, headaxislength=4, alpha=0.85,
            )  # fmt: skip

    def _arrow_scale(self, project, arrows) -> float:
        r"""Arrows of a typical strong flow span about one spacing between arrows."""
        speed = np.nanpercentile(np.hypot(*arrows), 95)
        x1, y1 = project(np.array([0.5]), np.array([0.0]))
        x0, y0 = project(np.array([0.0]), np.array([0.0]))
        return float(38 * speed * np.hypot(x1 - x0, y1 - y0)[0])


def _png(fig) -> bytes:
    r"""The figure as a palette PNG: half the size, no visible difference on a map."""
    from PIL import Image

    raw = io.BytesIO()
    fig.savefig(raw, format="png", transparent=True)
    image = Image.open(raw).convert("RGBA").quantize(256, method=Image.Quantize.FASTOCTREE)
    out = io.BytesIO()
    image.save(out, format="png", optimize=True)
    return out.getvalue()
