r"""What a training reads: samples that are functions of (seed, epoch, sample).

A dataset has a length and draws a sample by its number, so a sample does not depend on which
rank asks for it, in which order, or after how many restarts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hpcinv.diffusion.noise import generator
from hpcinv.errors import BadInput

if TYPE_CHECKING:
    from hpcinv.io.store import TrajectoryStore
    from hpcinv.training.augmentation import LocalisedMixing

Sample = dict[str, np.ndarray]
KEPT_IN_MEMORY = 1 << 30


class Dataset(Protocol):
    r"""Samples by number."""

    def __len__(self) -> int:
        r"""The number of samples of an epoch."""
        ...

    def sample(self, epoch: int, number: int) -> Sample:
        r"""A sample: `x` with shape (W, C, *grid), `context` with shape (W, K)."""
        ...


class WindowDataset:
    r"""Standardised windows of a trajectory store.

    Windows are read as they are asked for; a store smaller than a gibibyte is read once.

    Arguments:
        store: The store.
        window: The number of frames :math:`W` of a window.
        within: Keep only windows inside this half-open range of frames.
        time_steps: The frames from one of a window to the next. Windows of every step are
            samples of an epoch.

    Raises:
        BadInput: If no segment of the store is as long as a window of each time step.
    """

    def __init__(
        self,
        store: TrajectoryStore,
        window: int,
        within: tuple[int, int] | None = None,
        time_steps: Sequence[int] = (1,),
    ) -> None:
        self.store, self.window, self.timed = store, window, tuple(time_steps) != (1,)
        time_steps = sorted(time_steps)  # the closest windows first: what a sample is has no order
        starts = [store.windows(k * (window - 1) + 1, within) for k in time_steps]
        for k, found in zip(time_steps, starts, strict=True):
            if len(found) == 0:
                longest = max((b - a for a, b in store.segments), default=0)
                raise BadInput(
                    f"no window of {window} frames {f'{k} apart ' if k > 1 else ''}fits in the "
                    "store",
                    where=store.folder,
                    instead=f"Its longest segment has {longest} frames in {within or 'all'}.",
                )
        self.starts = np.concatenate(starts)
        self.steps = np.repeat(np.array(time_steps), [len(found) for found in starts])
        self._table = store.context()
        size = 4 * store.length * len(store.channels) * int(np.prod(store.grid))
        self._kept = store.standardised(0, store.length) if size <= KEPT_IN_MEMORY else None

    def __len__(self) -> int:
        return len(self.starts)

    def frames(self, number: int) -> np.ndarray:
        r"""The frame numbers of a window, with shape (W)."""
        return int(self.starts[number]) + int(self.steps[number]) * np.arange(self.window)

    def context(self, number: int) -> np.ndarray:
        r"""The context of a window, with shape (W, K); K is 0 without a calendar."""
        if self._table is None:
            return np.zeros((self.window, 0), np.float32)
        return np.asarray(self._table[self.frames(number)], np.float32)

    def array(self) -> np.ndarray:
        r"""All windows, with shape (N, W, C, *grid)."""
        return np.stack([self.sample(0, i)["x"] for i in range(len(self))])

    def sample(self, epoch: int, number: int) -> Sample:
        r"""The window `number`; the same in every epoch."""
        frames = self.frames(number)
        k, span = int(self.steps[number]), (int(frames[0]), int(frames[-1]) + 1)
        if self._kept is not None:
            x = self._kept[span[0] : span[1] : k]
        elif k == 1:
            x = self.store.standardised(*span)
        else:
            x = np.concatenate([self.store.standardised(f, f + 1) for f in frames.tolist()])
        found = {"x": np.asarray(x, np.float32), "context": self.context(number)}
        return found | {"times": (frames - frames[0]).astype(np.float32)} if self.timed else found


class MixedDataset:
    r"""Windows drawn by localised mixing, each with the context of some archive window.

    Arguments:
        mixing: The augmentation.
        archive: The windows it was made from, for their contexts.
        size: The number of draws called an epoch.
        within: The part of the mixing's bank used.
    """

    def __init__(
        self,
        mixing: LocalisedMixing,
        archive: WindowDataset,
        size: int = 1024,
        within: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self.mixing, self.archive, self.size, self.within = mixing, archive, size, within

    def __len__(self) -> int:
        return self.size

    def sample(self, epoch: int, number: int) -> Sample:
        r"""A mixture: new in every epoch."""
        which = self.mixing.label(epoch, number, len(self.archive))
        return {
            "x": self.mixing.draw(epoch, number, self.within),
            "context": self.archive.context(which),
        }


class RotatedPairs:
    r"""Turns pairs of windows by a random angle: :math:`\cos\varphi\,x_i + \sin\varphi\,x_j`.

    Zero-mean Gaussian data keep their distribution exactly, so that a nearly Gaussian dataset of
    a few hundred windows becomes endless.

    Arguments:
        dataset: The windows.
        seed: The seed of partners and angles.
    """

    def __init__(self, dataset: Dataset, seed: int = 0) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, epoch: int, number: int) -> Sample:
        r"""The window `number` turned towards another; it keeps its context."""
        rng = generator(self.seed, "rotated-pairs", epoch, number)
        partner = int(rng.integers(len(self.dataset)))
        angle = rng.uniform(0, 2 * np.pi)
        if partner == number:
            angle = 0.0
        first = self.dataset.sample(epoch, number)
        x = np.float32(np.cos(angle)) * first["x"]
        x += np.float32(np.sin(angle)) * self.dataset.sample(epoch, partner)["x"]
        return {**first, "x": x}


class Shifted:
    r"""Rolls windows along axes of the grid by random multiples of a step.

    Where a domain closes on itself and nothing tells one place from another, every shift of a
    window is a window: a short archive becomes as much longer as there are shifts.

    Arguments:
        dataset: The windows.
        steps: Grid points of the smallest shift along each axis, 0 for none.
        seed: The seed of the shifts.
    """

    def __init__(self, dataset: Dataset, steps: Sequence[int], seed: int = 0) -> None:
        self.dataset, self.steps, self.seed = dataset, tuple(steps), seed

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, epoch: int, number: int) -> Sample:
        r"""The window `number`, elsewhere in every epoch."""
        rng = generator(self.seed, "shifted", epoch, number)
        found = self.dataset.sample(epoch, number)
        x = found["x"]
        first = x.ndim - len(self.steps)
        shifts = [
            k * int(rng.integers(x.shape[first + i] // k)) if k else 0
            for i, k in enumerate(self.steps)
        ]
        return {**found, "x": np.roll(x, shifts, tuple(range(first, x.ndim)))}


def shuffled(seed: int, epoch: int, size: int) -> np.ndarray:
    r"""The order of an epoch's samples."""
    return generator(seed, "order", epoch).permutation(size)


class Order:
    r"""The endless sequence of samples of a training: position -> (epoch, sample).

    Arguments:
        seed: The seed of the training.
        size: The number of samples of an epoch.
        permutation: The order of an epoch, from seed and epoch, of a dataset that has one of its
            own since it is read out of core; others are shuffled.
    """

    def __init__(
        self, seed: int, size: int, permutation: Callable[[int, int], np.ndarray] | None = None
    ) -> None:
        self.seed, self.size = seed, size
        self._permutation = permutation or (lambda seed, epoch: shuffled(seed, epoch, size))
        self._epochs: dict[int, np.ndarray] = {}

    def __getitem__(self, position: int) -> tuple[int, int]:
        epoch, place = divmod(position, self.size)
        if epoch not in self._epochs:
            if len(self._epochs) > 2:
                self._epochs.clear()
            self._epochs[epoch] = self._permutation(self.seed, epoch)
        return epoch, int(self._epochs[epoch][place])

    def batch(self, step: int, size: int) -> list[tuple[int, int]]:
        r"""The samples of an optimiser step, the same for any number of ranks."""
        return [self[step * size + i] for i in range(size)]


def stack(samples: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    r"""Joins samples into a batch along a new first axis."""
    return {key: np.stack([s[key] for s in samples]) for key in samples[0]}
