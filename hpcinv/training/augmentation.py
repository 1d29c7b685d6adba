r"""Localised mixing: new training windows from a small archive.

The covariance of a small sample has spurious correlations between distant points, which data
assimilation removes by a Schur product with a function of distance (Houtekamer and Mitchell,
2001). A generative model is trained on samples, not on a covariance; this augmentation is the
same operation on samples.
"""

from __future__ import annotations

import math

import numpy as np

from hpcinv.diffusion.noise import generator
from hpcinv.models.sphere import SmoothFields


class LocalisedMixing:
    r"""Draws windows whose expected covariance is the localised covariance of an archive.

    .. math:: x = \sum_{k=1}^{K} w_k \circ Z_k

    where the :math:`Z_k` are distinct windows of the archive and the :math:`w_k` independent
    smooth Gaussian fields of variance :math:`1 / K` and correlation :math:`c`, constant in time.
    Averaged over draws, Cov(x) is the sample covariance of the archive's windows (all lags
    within a window included) times :math:`c` of the distance. As the terms are many, draws are
    nearly Gaussian: what is learned from them is localised optimal interpolation's knowledge.

    A bank of such windows is made once; a draw turns a pair of the bank by a random angle,
    :math:`\cos\varphi\, x_i + \sin\varphi\, x_j`, which keeps the covariance and is cheap.

    Arguments:
        windows: The archive's frames, standardised, with shape :math:`(N, W, C, H, W')`.
        lat: Latitudes of the rows in degrees, with shape :math:`(H)`.
        lon: Longitudes of the columns in degrees, with shape :math:`(W')`.
        length_km: The localisation length: :math:`c(d) \approx \exp(-d^2 / 2 L^2)`.
        terms: The number :math:`K` of archive windows in each of the bank's.
        bank: The number of windows in the bank.
        seed: The seed of the bank and of all draws.
        mask: Where the grid is valid, with shape :math:`(H, W')`; elsewhere draws are zero.
    """

    def __init__(
        self,
        windows: np.ndarray,
        lat: np.ndarray,
        lon: np.ndarray,
        *,
        length_km: float = 2000.0,
        terms: int = 24,
        bank: int = 256,
        seed: int = 0,
        mask: np.ndarray | None = None,
    ) -> None:
        windows = np.asarray(windows, np.float32)
        number = len(windows)
        terms = min(terms, number)
        self.seed = seed
        self.size = bank
        fields = SmoothFields(lat, lon, length_km)
        self.bank = np.zeros((bank, *windows.shape[1:]), np.float32)
        for i in range(bank):
            rng = generator(seed, "localised-mixing-bank", i)
            chosen = rng.choice(number, terms, replace=False)
            weights = fields.draw(terms, rng) / np.float32(math.sqrt(terms))
            if mask is not None:
                weights = weights * mask
            np.einsum("kwchv,khv->wchv", windows[chosen], weights, out=self.bank[i])

    def draw(
        self, epoch: int, sample: int, within: tuple[float, float] = (0.0, 1.0)
    ) -> np.ndarray:
        r"""Draws a window: a function of (seed, epoch, sample) alone.

        Arguments:
            epoch: The pass over the data.
            sample: The number of the sample in the epoch.
            within: The part of the bank used, as fractions, so that training and validation
                share no window of the bank.

        Returns:
            A standardised window, with shape :math:`(W, C, H, W')`.
        """
        rng = generator(self.seed, "localised-mixing", epoch, sample)
        first, last = (round(f * self.size) for f in within)
        if last - first < 2:
            raise ValueError(f"a bank of {self.size} windows has less than two in {within}")
        i, j = first + rng.choice(last - first, 2, replace=False)
        angle = rng.uniform(0, 2 * math.pi)
        out = np.float32(math.cos(angle)) * self.bank[i]
        out += np.float32(math.sin(angle)) * self.bank[j]
        return out

    def label(self, epoch: int, sample: int, number: int) -> int:
        r"""The archive window, of `number`, whose time of year a drawn window is given.

        Standardised anomalies of all seasons are mixed, so the label is independent of the
        draw: a small archive cannot tell the seasons' covariances apart.
        """
        return int(generator(self.seed, "localised-mixing-label", epoch, sample).integers(number))
