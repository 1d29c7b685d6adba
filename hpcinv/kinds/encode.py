r"""`kind: encode`: a store of states becomes a store of latents, as it is or as mixtures."""

from __future__ import annotations

__all__ = ["Encode"]

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from ..runs.folder import RunFolder
from ..training.config import MixingConfig
from .base import Context, Job, Ref

if TYPE_CHECKING:
    from .study import Study


class Encode(Job):
    r"""Encodes frames, or `windows` localised mixtures of `window` frames each.

    An array cuts the `frames` over dates, the mixtures over shards.
    """

    kind: Literal["encode"] = "encode"
    data: Annotated[str, Ref("store")]
    autoencoder: Annotated[str, Ref("autoencoder")]
    frames: tuple[int, int] | None = Field(None, description="half-open range; default: all")
    window: int | None = Field(None, ge=1, description="frames of a mixture")
    windows: int | None = Field(None, ge=1, description="mixtures to draw")
    augmentation: MixingConfig | None = None

    backend: ClassVar[str] = "mpi"
    thing: ClassVar[str] = "store"

    @model_validator(mode="after")
    def _mixtures(self) -> Encode:
        given = [self.window is not None, self.windows is not None, self.augmentation is not None]
        if any(given) and not all(given):
            raise ValueError("mixtures need 'window', 'windows' and 'augmentation' together")
        return self

    @property
    def axes(self) -> tuple[str, ...]:
        if self.windows:
            return ("shards",)
        return ("dates",) if self.frames else ()  # how many there are must be known beforehand

    def axis(self, over: str) -> int:
        return self.windows or self.frames[1] - self.frames[0]

    def run(self, ctx: Context) -> dict[str, str]:
        import torch

        from ..models import load

        torch.set_num_threads(ctx.threads)
        store = ctx.store(self.data)
        model = load(ctx.inputs[self.autoencoder])
        block = ctx.block if ctx.task is not None else None
        pieces = self._mixed(store, block) if self.augmentation else self._plain(store, block)
        writer = self._writer(ctx, store, model, pieces)
        lo, hi = ctx.world.share(0, pieces.count)
        ctx.progress.begin("encoding")
        for i in range(lo, hi):
            x, context = pieces.read(i)
            with torch.no_grad():
                z = model.encode(
                    torch.from_numpy(x), torch.from_numpy(context) if model.context else None
                )
            writer.write(pieces.start(i), z.numpy())
            ctx.progress.update(i + 1 - lo, hi - lo)
        digest = writer.close()
        ctx.say(f"{writer.length} frames, {'x'.join(map(str, model.latent_shape))} numbers each")
        return {"store": digest}

    def join(self, ctx: Context, parts: list[Path]) -> dict[str, str]:
        from ..io.join_store import join_stores

        told = [RunFolder(p).manifest()["outputs"]["store"] for p in parts]
        if parts == [ctx.folder]:
            return {"store": told[0]}
        if self.windows:
            segments = [(i * self.window, (i + 1) * self.window) for i in range(self.windows)]
        else:
            segments = self._plain(ctx.store(self.data), None).segments
        stores = [p / "store" for p in parts]
        return {"store": join_stores(ctx.folder / "store", stores, segments, told, ctx.fence)}

    def _mixed(self, store, block):
        from .training_data import archive, mixed

        data = mixed(
            archive(store, self.window, self.frames), self.augmentation, self.seed, self.windows
        )
        return Mixtures(data, self.window, range(self.windows) if block is None else block)

    def _plain(self, store, block):
        a, b = self.frames or (0, store.length)
        return (
            Frames(store, a, b)
            if block is None
            else Frames(store, a + block.start, a + block.stop)
        )

    def _writer(self, ctx: Context, store, model, pieces):
        import numpy as np

        from ..io.write_store import StoreWriter

        c, h, w = model.latent_shape
        return StoreWriter(
            ctx.folder / "store",
            channels=[f"z{i}" for i in range(c)],
            units=["1"] * c,
            coords={"y": np.arange(h, dtype=float), "x": np.arange(w, dtype=float)},
            coord_attrs={"y": {"long_name": "latent row"}, "x": {"long_name": "latent column"}},
            **pieces.clock(),
            attributes={"latent_of": store.digest, "channels": store.channels},
            world=ctx.world,
            fence=ctx.fence,
        )

    def figures(self, study: Study, name: str) -> dict[str, str]:
        return {"windows": f"{self.windows} of {self.window} frames"} if self.windows else {}


class Mixtures:
    r"""Augmented windows, each a segment of its own: those with the ids of `block`."""

    def __init__(self, data, window: int, block: range) -> None:
        self.data, self.window, self.block, self.count = data, window, block, len(block)

    def start(self, i: int) -> int:
        return i * self.window

    def read(self, i: int):
        s = self.data.sample(0, self.block[i])
        return s["x"], s["context"]

    def clock(self) -> dict:
        import numpy as np

        n, W = self.count, self.window
        store = self.data.archive.store
        step = float(np.median(np.diff(store.time))) if store.length > 1 else 1.0
        which = [self.data.mixing.label(0, i, len(self.data.archive)) for i in self.block]
        # Each window runs from the date of an archive window, whose season it has.
        return {
            "time": np.concatenate(
                [store.time[self.data.archive.frames(k)[0]] + step * np.arange(W) for k in which]
            ),
            "time_units": store.time_units,
            "calendar": store.calendar,
            "segments": [(i * W, (i + 1) * W) for i in range(n)],
            "context": np.concatenate([self.data.archive.context(k) for k in which]),
        }


class Frames:
    r"""Frames as they are, one by one, with their store's time and segments."""

    def __init__(self, store, a: int, b: int) -> None:
        self.store, self.a, self.count = store, a, b - a

    def start(self, i: int) -> int:
        return i

    def read(self, i: int):
        import numpy as np

        t = self.a + i
        context = self.store.context([t])
        return (
            self.store.standardised(t, t + 1),
            np.zeros((1, 0), np.float32) if context is None else context,
        )

    @property
    def segments(self) -> list[tuple[int, int]]:
        a, b = self.a, self.a + self.count
        return [(max(p, a) - a, min(q, b) - a) for p, q in self.store.segments if q > a and p < b]

    def clock(self) -> dict:
        a, b = self.a, self.a + self.count
        return {
            "time": self.store.time[a:b],
            "time_units": self.store.time_units,
            "calendar": self.store.calendar,
            "segments": self.segments,
            "context": self.store.context(range(a, b)),
        }
