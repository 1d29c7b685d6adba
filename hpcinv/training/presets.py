r"""Named sizes of the models, from a laptop's to those of Appa (Andry et al., 2025).

A preset is fields; a field given beside it wins. Parameter counts are for the shapes named here
and tested; they grow with the channels of the data (autoencoder) and of the latent (denoiser).
"""

from __future__ import annotations

__all__ = ["PRESETS"]

from typing import Any

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "autoencoder": {
        "tiny": {"latent_channels": 16, "stride": 8, "width": 64, "depth": 0},
        "small": {"latent_channels": 32, "stride": 8, "width": 128, "depth": 1},
        # 71 channels on 0.25 degrees: 127 million parameters, 556 times fewer numbers.
        "base": {"latent_channels": 32, "stride": 16, "width": 448, "depth": 3},
        # 507 million on 71 channels of 721 x 1440, to 32 x 46 x 90 numbers: 556 times fewer.
        "appa-500m": {"latent_channels": 32, "stride": 16, "width": 1120, "depth": 3},
    },
    "trajectory_denoiser": {
        "tiny": {"width": 64, "depth": 4, "heads": 0},
        "small": {"width": 256, "depth": 6, "heads": 4},
        "base": {"width": 512, "depth": 8, "heads": 8, "checkpointing": True},
        # 982 million on the latents of appa-500m.
        "appa-1b": {"width": 1280, "depth": 26, "heads": 20, "checkpointing": True},
    },
}
