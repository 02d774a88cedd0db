"""What is known of the training samples of some data: id, label, group, and where the file is.

A study leaves it beside its results, so that what was kept can be named later, and elsewhere,
without the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raydrop.errors import StoreError
from raydrop.store.entries import Store
from raydrop.study import SCHEMA

_BETWEEN = "\0"
"""What stands between two paths, since no path has it."""


def write_samples(
    store: Store,
    fingerprint: str,
    *,
    ids: NDArray[np.int64],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64] | None = None,
    paths: Sequence[str] = (),
    root: str = "",
) -> None:
    """Leave the training samples (N,) of some data, unless they are there.

    Paths, one for each sample where they have any, are below a root.
    """
    config = _config(fingerprint)
    if store.find("samples", config) is not None:
        return
    arrays: dict[str, NDArray[Any]] = {"ids": ids, "labels": labels}
    if groups is not None:
        arrays["groups"] = groups
    if paths:
        text = _BETWEEN.join(paths).encode("utf-8", "backslashreplace")
        arrays["paths"] = np.frombuffer(text, np.uint8)
    store.write("samples", config, {"root": root}, arrays)


def read_samples(store: Store, fingerprint: str) -> pd.DataFrame | None:
    """Return the training samples of some data in their order; None where a store has none.

    The columns are ``sample_id``, ``path``, ``label`` and ``group``, numbers but for the path, and
    missing where the data have none; ``attrs["root"]`` is what paths are below.

    Raises:
        StoreError: If there are not as many of one as of the others.
    """
    found = store.find("samples", _config(fingerprint))
    if found is None:
        return None
    ids = found.array("ids", kinds="iu", shape=(None,))
    labels = found.array("labels", kinds="iu", shape=ids.shape)
    paths = groups = None
    if "paths" in found.names:
        text = found.array("paths", kinds="u", shape=(None,)).tobytes()
        paths = text.decode("utf-8", "replace").split(_BETWEEN)
        if len(paths) != len(ids):
            raise StoreError(
                f"Expected {len(ids)} paths in {found.called}, found {len(paths)}; remove that "
                "folder and run the study again."
            )
    if "groups" in found.names:
        groups = found.array("groups", kinds="iu", shape=ids.shape)
    columns = {"sample_id": ids, "path": paths, "label": labels, "group": groups}
    frame = pd.DataFrame(columns, index=range(len(ids)))
    frame.attrs["root"] = str(found.info.get("root", ""))
    return frame


def _config(fingerprint: str) -> dict[str, Any]:
    return {"kind": "samples", "schema": SCHEMA, "fingerprint": fingerprint}
