r"""Amortised posteriors in use: samples, densities, modes, regions, weights."""
