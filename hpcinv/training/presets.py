r"""Named sizes of the models, from a laptop's to those of Appa (Andry et al., 2025).

A preset is fields; a field given beside it wins. Parameter counts are those of 71 channels on
721 x 1440 (autoencoder) and of the latents of appa-500m, 32 channels on 46 x 90 (denoiser), with
the times of year and day; tested. They grow with the channels and, by position features, the grid.
"""

from __future__ import annotations

__all__ = ["PRESETS"]

from typing import Any

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "autoencoder": {
        # 2.7 million parameters.
        "tiny": {"latent_channels": 16, "stride": 8, "width": 64, "depth": 0},
        # 7.0 million.
        "small": {"latent_channels": 32, "stride": 8, "width": 128, "depth": 1},
        # 123 million; 556 times fewer numbers.
        "base": {"latent_channels": 32, "stride": 16, "width": 448, "depth": 3},
        # 507 million; 556 times fewer numbers, 32 x 46 x 90.
        "appa-500m": {"latent_channels": 32, "stride": 16, "width": 1120, "depth": 3},
    },
    "trajectory_denoiser": {
        # 0.27 million parameters.
        "tiny": {"width": 64, "depth": 4, "heads": 0},
        # 9.2 million.
        "small": {"width": 256, "depth": 6, "heads": 4},
        # 49 million.
        "base": {"width": 512, "depth": 8, "heads": 8, "checkpointing": True},
        # 982 million.
        "appa-1b": {"width": 1280, "depth": 26, "heads": 20, "checkpointing": True},
    },
}
