r"""Where imported files come from: a path, or a file of a Debian package.

A package's file is fetched once with the package manager, checked against the job file's
SHA-256 and kept in the user's cache, on the machine that submits: compute nodes often have no
way out. Nothing is installed and no root is needed.
"""

from __future__ import annotations

__all__ = ["cached_debian", "fetch_debian", "keep_sample", "sampled"]

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ..errors import BadInput
from .atomic import digest_bytes


def cache() -> Path:
    r"""The user's cache of fetched files."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "hpcinv" / "sources"


def _sha256(path: Path) -> str:
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(1 << 22):
            h.update(chunk)
    return h.hexdigest()


def cached_debian(file: str, sha256: str) -> Path | None:
    r"""The file if it is in the cache or installed on this machine, else None."""
    for path in (cache() / sha256 / Path(file).name, Path("/") / file):
        if path.is_file() and _sha256(path) == sha256:
            return path
    return None


def fetch_debian(package: str, file: str, sha256: str) -> Path:
    r"""Fetches one file of a Debian package.

    Arguments:
        package: The package's name.
        file: The file's path in the package, without the leading slash.
        sha256: The file's checksum.

    Returns:
        The path of the file in the cache.

    Raises:
        BadInput: If the package cannot be had, lacks the file, or the checksum differs.
    """
    found = cached_debian(file, sha256)
    if found:
        return found
    by_hand = "Give the file itself instead: source: {path: ...}."
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise BadInput(
            f"the Debian package '{package}' needs apt-get, which is not here", None, by_hand
        )
    with tempfile.TemporaryDirectory(prefix="hpcinv-fetch-") as scratch:
        get = ["apt-get", "-q", "download", package]
        done = subprocess.run(get, cwd=scratch, capture_output=True, text=True, timeout=600)
        if done.returncode and os.geteuid() == 0:  # a fresh machine has no package lists yet
            update = ["apt-get", "-q", "update"]
            subprocess.run(update, capture_output=True, text=True, timeout=600)
            done = subprocess.run(get, cwd=scratch, capture_output=True, text=True, timeout=600)
        archives = list(Path(scratch).glob("*.deb"))
        if done.returncode or not archives:
            said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise BadInput(
                f"the Debian package '{package}' cannot be downloaded ({said})", None, by_hand
            )
        unpack = ["dpkg-deb", "-x", str(archives[0]), str(Path(scratch) / "x")]
        subprocess.run(unpack, check=True, capture_output=True, timeout=600)
        source = Path(scratch) / "x" / file
        if not source.is_file():
            raise BadInput(f"the Debian package '{package}' has no file '{file}'", None, by_hand)
        if _sha256(source) != sha256:
            raise BadInput(
                f"the file of the Debian package '{package}' has checksum {_sha256(source)}",
                file,
                "If you trust it, write this checksum into the job file.",
            )
        place = cache() / sha256 / Path(file).name
        place.parent.mkdir(parents=True, exist_ok=True)
        new = place.with_name(f".{place.name}.{os.getpid()}")
        shutil.copyfile(source, new)
        os.replace(new, place)
    return place


def sampled(fields: dict[str, Any]) -> Path:
    r"""Where the made-up sample of these fields is kept, whether it is there or not."""
    name = digest_bytes(json.dumps(fields, sort_keys=True).encode())[:16]
    return cache() / f"sample-{name}.nc"


def keep_sample(data: Any, path: Path) -> None:
    r"""Writes an xarray dataset as netCDF, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    data.to_netcdf(new, engine="netcdf4")
    os.replace(new, path)
