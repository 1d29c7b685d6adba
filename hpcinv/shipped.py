r"""Where the files that travel with the package are: the studies and the Slurm templates."""

from __future__ import annotations

from pathlib import Path

__all__ = ["folder"]


def folder(name: str) -> Path:
    r"""The folder ``jobs`` or ``slurm`` of this installation.

    The rule: an installed wheel carries it inside the package (``hpcinv/jobs``), a checkout
    beside the package (``jobs``). Inside wins: a stray ``jobs`` next to site-packages is not read.

    Arguments:
        name: ``"jobs"`` or ``"slurm"``.

    Raises:
        FileNotFoundError: the installation is incomplete.
    """
    package = Path(__file__).resolve().parent
    for place in (package / name, package.parent / name):
        if place.is_dir():
            return place
    raise FileNotFoundError(
        f"this installation of hpcinv lacks its '{name}' folder: reinstall it (scripts/setup)"
    )
