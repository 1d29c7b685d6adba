r"""Files of observations as one long table: a row for each number observed.

CSV, Parquet, netCDF and ODV text come in two shapes. *Long*: the columns variable, value, time,
lat, lon and perhaps units, error, station, level, flag. *Wide*: one column for each measured
variable (`Measured` says which), as reports and casts are archived; what is missing there was not
observed, and is counted. Variables of a netCDF file may span several dimensions (casts × depths):
those of fewer are repeated. Columns are renamed to ours; nothing is converted yet.
"""

from __future__ import annotations

__all__ = ["NEEDED", "OPTIONAL", "open_long"]

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BadInput, nearest
from .files_netcdf import ioda_groups, plain
from .units import conversion

if TYPE_CHECKING:
    import pandas as pd

NEEDED = ("variable", "value", "time", "lat", "lon")
OPTIONAL = ("units", "error", "station", "level", "flag")
PLACE = ("time", "lat", "lon", "station", "level")
PER_MASS = "umol kg-1"
SUFFIXES = (".csv", ".parquet", ".nc", ".cdf", ".txt")


def open_long(
    path: Path,
    columns: Mapping[str, str],
    measured: Mapping[str, Any] | None = None,
    notes: dict[str, int] | None = None,
) -> pd.DataFrame:
    r"""Reads a file.

    Arguments:
        path: The file.
        columns: Names of the file's columns by ours, where they differ.
        measured: Columns that hold one variable each, with what is known of them; None for a
            file in long shape.
        notes: Gets the number of values that were missing in a wide file.

    Returns:
        A frame with the columns `NEEDED` and those of `OPTIONAL` that the file has. Its index is
        the row of the file.

    Raises:
        BadInput: If the file cannot be read or a column is missing.
    """
    if not path.exists():
        raise BadInput("no such file", path, "Check the path.")
    if path.suffix not in SUFFIXES:
        raise BadInput(f"'{path.suffix}' is not read", path, f"Give one of {', '.join(SUFFIXES)}.")
    unknown = [ours for ours in columns if ours not in NEEDED + OPTIONAL]
    if unknown:
        raise BadInput(
            f"no column '{unknown[0]}'", "columns", nearest(unknown[0], NEEDED + OPTIONAL)
        )
    if path.stat().st_size == 0:
        raise BadInput(
            f"cannot be read as {path.suffix[1:]} (it is empty)", path, "Copy it again."
        )
    place = {ours: columns.get(ours, ours) for ours in PLACE}
    if path.suffix in (".nc", ".cdf"):
        verdicts = {m.flag for m in (measured or {}).values() if m.flag}
        wanted = set(place.values()) | set(columns.values()) | set(measured or {}) | verdicts
        frame = ioda_groups(path)
        if frame is None:
            verdicts.add(columns.get("flag", "flag"))
            frame = plain(path, wanted if measured is not None else None, verdicts)
        elif measured is not None:
            raise BadInput("'measured' of a file in IODA's groups", path, "Leave it out.")
    else:
        frame = _text(path)
    if measured is None:
        return _named(frame, columns, NEEDED, path)
    frame = _named(frame, {k: v for k, v in columns.items() if k in PLACE}, PLACE[:3], path)
    return _melt(frame, measured, path, {} if notes is None else notes)


def _named(frame, columns: Mapping[str, str], needed, path: Path) -> pd.DataFrame:
    have = list(map(str, frame.columns))
    repeated = [c for c in have if have.count(c) > 1 or (c.endswith(".1") and c[:-2] in have)]
    if repeated:
        raise BadInput(f"two columns '{repeated[0].removesuffix('.1')}'", path, "Rename one.")
    for ours in [*needed, *(c for c in columns if c not in needed)]:
        theirs = columns.get(ours, ours)
        if theirs not in frame:
            raise BadInput(
                f"no column '{theirs}'",
                path,
                f"It has {', '.join(have)}: name the right one under columns.",
            )
    return frame.rename(columns={theirs: ours for ours, theirs in columns.items()})


def _text(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
            for name, column in frame.items():
                if column.dtype == object and column.map(pd.api.types.is_list_like).any():
                    raise BadInput(
                        f"column '{name}' holds lists", path, "One number, word or date a row."
                    )
            return frame
        if path.suffix == ".csv":
            return pd.read_csv(path)
        return _odv(path)
    except ImportError as e:
        raise BadInput("Parquet needs pyarrow", path, "Run: pip install pyarrow") from e
    except (ValueError, OSError, UnicodeDecodeError) as e:
        if isinstance(e, BadInput):
            raise
        text = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise BadInput(
            f"cannot be read as {path.suffix[1:]} ({text})",
            path,
            "Is it whole? Copy it again, or look at the line named.",
        ) from e


def _odv(path: Path) -> pd.DataFrame:
    r"""ODV spreadsheet: comments begin with //, what a cast says once holds until it is said anew.

    Names lose what follows the first space or colon; columns QV of the same name get a number.
    """
    import pandas as pd

    lines = path.read_text(errors="replace").splitlines()
    body = [k for k, line in enumerate(lines) if line.strip() and not line.startswith("//")]
    if not body or "\t" not in lines[body[0]]:
        raise BadInput(
            "no ODV spreadsheet", path, "A .txt file begins with // and has tabs between columns."
        )
    names, seen = [], {}
    for name in lines[body[0]].split("\t"):
        short = name.split(" [")[0].split(":META")[0].strip()
        seen[short] = seen.get(short, 0) + 1
        names.append(short if seen[short] == 1 else f"{short}_{seen[short]}")
    rows = [lines[k].split("\t") for k in body[1:]]
    short = [k for k, r in zip(body[1:], rows, strict=True) if len(r) != len(names)]
    if short:
        raise BadInput(
            f"{len(lines[short[0]].split(chr(9)))} columns of {len(names)}",
            f"{path}, line {short[0] + 1}",
            "Is the file whole?",
        )
    frame = pd.DataFrame(rows, columns=names).replace("", np.nan)
    if "Depth" in frame:
        at = names.index("Depth")
        frame[names[:at]] = frame[names[:at]].ffill()
    frame.columns = [c.strip() for c in frame.columns]
    return frame


def _melt(frame, measured: Mapping[str, Any], path: Path, notes: dict[str, int]):
    import pandas as pd

    parts = []
    for theirs, m in measured.items():
        if theirs not in frame:
            raise BadInput(f"no column '{theirs}'", path, nearest(theirs, map(str, frame.columns)))
        part = frame[[c for c in PLACE if c in frame]].copy()
        x = frame[theirs]
        part["value"], part["variable"] = x, m.channel or theirs
        part["units"] = m.units or frame.attrs.get("units", {}).get(theirs, "")
        if m.error is not None:
            part["error"] = m.error
        if m.flag is not None:
            if m.flag not in frame:
                raise BadInput(f"no column '{m.flag}'", path, nearest(m.flag, frame.columns))
            part["flag"] = (~frame[m.flag].astype(str).isin([str(g) for g in m.good])).astype(int)
        missing = x.isna() | (x.isin(m.missing) if m.missing else False)
        notes["not observed"] = notes.get("not observed", 0) + int(missing.sum())
        part = part[~missing]
        if m.density is not None:
            f, _ = conversion(part["units"].iloc[0] if len(part) else "", PER_MASS, path)
            part["value"] = part["value"].astype(float) * (f * m.density * 1e-3)
            part["units"] = "mmol m-3"
        parts.append(part)
    long = pd.concat(parts)
    if "flag" in long:
        long["flag"] = long["flag"].fillna(0).astype(int)
    return long
