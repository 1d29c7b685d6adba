"""Bayesian inversion with deep generative priors, as batch jobs on Slurm clusters."""

__version__ = "0.1.0"
