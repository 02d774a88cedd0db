"""Tables as bytes, and files that appear whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd

from raydrop.errors import StoreError
from raydrop.store.files import written_whole
from raydrop.store.mirror import both_places, publish


def parquet_bytes(table: pd.DataFrame) -> bytes:
    """Return a table as a Parquet file, without its index."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, engine="pyarrow", index=False)
    return buffer.getvalue()


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; of a mirror, upload it first.

    Raises:
        StoreError: If it cannot be written; what was there before stays.
    """
    try:
        with written_whole(path) as file:
            file.write(content)
            publish(path, content)
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(
            f"Expected to write {both_places(path)}, found: {error.strerror or error}; "
            "free space there or allow writing."
        ) from error


def make_folder(folder: Path) -> None:
    """Make a folder for results, with its parents, where it is not there yet.

    Raises:
        StoreError: If it cannot be made, or a file is in its place.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"Expected a folder for results at {folder}, found: {error.strerror or error}; "
            "choose another with --out."
        ) from error
