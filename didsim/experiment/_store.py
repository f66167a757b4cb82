"""Where results lie: one directory with one writer, files that appear whole or not at all."""

import gzip
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from didsim.errors import ResourceError

SCHEMA_VERSION = 1
MARKER = ".didsim-out"
LOCK = ".didsim-lock"
OWNER = ".didsim-owner"
PARTIAL = ".didsim-part-"


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that it is complete under its name, or not there; raise ResourceError if it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=PARTIAL)
    except OSError as error:
        raise ResourceError(f"Cannot write into {path.parent}: {error.strerror}.") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        raise ResourceError(f"Cannot write {path}: {error.strerror}. Free some space, or use another --out.") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _sync_directory(path: Path) -> None:
    """Make a rename durable, on systems where a directory can be opened."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def output_directory(path: Path) -> Iterator[Path]:
    """Hold an output directory for writing, creating it if need be.

    Raises:
        ResourceError: if it cannot be created, holds files that are not didsim's, or has a writer already.
    """
    _claim(path)
    try:
        with FileLock(path / LOCK, timeout=0):
            for leftover in path.rglob(PARTIAL + "*"):  # of a process that was killed while writing
                leftover.unlink(missing_ok=True)
            write_atomic(path / OWNER, str(os.getpid()).encode())
            yield path
    except Timeout as error:
        owner = _read_text(path / OWNER) or "unknown"
        raise ResourceError(f"Process {owner} is writing into {path}. Wait for it, or use another --out.") from error


def _claim(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        entries = [entry.name for entry in path.iterdir() if not entry.name.startswith(PARTIAL)]
    except OSError as error:
        raise ResourceError(f"Cannot use {path} as output directory: {error.strerror}.") from error
    if entries and MARKER not in entries:
        raise ResourceError(f"{path} holds files that are not didsim's ({entries[0]}, …). Use a new or an empty --out.")
    if not entries:
        write_atomic(path / MARKER, json.dumps({"schema_version": SCHEMA_VERSION}).encode())


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def cell_key(experiment_id: str, params: Mapping[str, Any], code: str) -> str:
    """Return the name of a cell's file: a hash of what was computed, with what code."""
    identity = json.dumps([SCHEMA_VERSION, experiment_id, params, code], sort_keys=True, default=list)
    return hashlib.sha256(identity.encode()).hexdigest()[:24]


def encode_cell(rows: pd.DataFrame) -> bytes:
    """Encode rows as compressed JSON, same rows to same bytes; gzip adds the checksum.

    Raises:
        ValueError: if a number is NaN or infinite: rows must say so by a status instead.
    """
    columns = {str(name): rows[name].tolist() for name in rows.columns}
    return gzip.compress(json.dumps(columns, allow_nan=False).encode(), mtime=0)


def decode_cell(content: bytes) -> pd.DataFrame | None:
    """Decode rows; None if the file is damaged."""
    try:
        columns = json.loads(gzip.decompress(content))
        return pd.DataFrame(columns) if isinstance(columns, dict) else None
    except (OSError, EOFError, ValueError, zlib.error):
        return None
