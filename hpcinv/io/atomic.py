r"""Writes that a kill cannot tear, and digests.

A file is written beside its destination, flushed to disk and moved over it by `os.replace`;
readers see the old file or the new one, never half of either.
"""

from __future__ import annotations

__all__ = [
    "digest_array",
    "digest_bytes",
    "digest_external",
    "digest_frame",
    "roll",
    "same_frame",
    "start_writing",
    "sync",
    "write_json",
]

import ctypes
import hashlib
import json
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np


def sync(path: Path) -> None:
    r"""Flushes a file, or the entries of a folder, to disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def start_writing(fd: int) -> None:
    r"""Asks the system to begin writing what an open file has in memory, without waiting for it.

    Left alone, Linux begins at a tenth of all memory or at fsync; asked, the disk works while the
    next block is computed. Where there is no `sync_file_range` nothing happens.
    """
    if (begin := _sync_file_range()) is not None:
        whole = ctypes.c_int64(0)  # from 0, to the end; 2 is SYNC_FILE_RANGE_WRITE
        begin(ctypes.c_int(fd), whole, whole, ctypes.c_uint(2))


@cache
def _sync_file_range() -> Any:
    return getattr(ctypes.CDLL(None), "sync_file_range", None)


def write_bytes(path: Path, data: bytes) -> None:
    r"""Replaces a file by `data`, atomically and durably."""
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(scratch, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    os.replace(scratch, path)
    sync(path.parent)


def write_json(path: Path, obj: Any) -> None:
    r"""Replaces a JSON file, atomically and durably."""
    write_bytes(path, (json.dumps(obj, indent=1, allow_nan=False) + "\n").encode())


def digest_bytes(data: bytes) -> str:
    r"""BLAKE2b of some bytes, 128 bits in hexadecimal."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest_array(x: np.ndarray) -> str:
    r"""BLAKE2b of an array's bytes in C order, with its type and shape."""
    h = hashlib.blake2b(f"{x.dtype.str}{x.shape}".encode(), digest_size=16)
    h.update(np.ascontiguousarray(x).data)
    return h.hexdigest()


def digest_frame(x: np.ndarray) -> str:
    r"""SHA-256 of an array as in `digest_array`, cut to 128 bits in hexadecimal.

    For frames of stores and analyses, of which there are many bytes: processors with instructions
    for it (x86 since 2019, ARMv8) take half as long as for BLAKE2b.
    """
    h = hashlib.sha256(f"{x.dtype.str}{x.shape}".encode())
    h.update(np.ascontiguousarray(x).data)
    return h.hexdigest()[:32]


def same_frame(x: np.ndarray, digest: str) -> bool:
    r"""Whether a frame has a digest; older files have that of `digest_array`."""
    return digest_frame(x) == digest or digest_array(x) == digest


def roll(digests: Iterable[str]) -> str:
    r"""One digest of a sequence of digests; the order counts."""
    h = hashlib.blake2b(digest_size=16)
    for d in digests:
        h.update(bytes.fromhex(d))
    return h.hexdigest()


def digest_external(path: Path, verify: str = "quick") -> dict[str, Any]:
    r"""Identifies a file we did not write: size, time of change, head and tail.

    Arguments:
        path: The file. A folder (a Zarr store) is identified by its own entries.
        verify: `full` reads all of the file; `quick` its first and last MiB.
    """
    path = Path(path)
    stat = path.stat()
    found: dict[str, Any] = {"path": str(path), "bytes": stat.st_size, "mtime": stat.st_mtime}
    h = hashlib.blake2b(digest_size=16)
    if path.is_dir():
        for entry in sorted(p.name for p in path.iterdir()):
            h.update(entry.encode())
    else:
        with open(path, "rb") as f:
            if verify == "full":
                while chunk := f.read(1 << 24):
                    h.update(chunk)
            else:
                h.update(f.read(1 << 20))
                f.seek(max(0, stat.st_size - (1 << 20)))
                h.update(f.read(1 << 20))
    return found | {"digest": h.hexdigest(), "verify": verify}
