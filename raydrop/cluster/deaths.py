"""Worker processes that died and were replaced: counted, and written down as it happens."""

from __future__ import annotations

import contextlib
import uuid
from collections import Counter
from datetime import UTC, datetime

from raydrop.errors import StoreError
from raydrop.store import Store

RETRIES = 3
"""Times that a query run, a shard or a trial is tried again after the process at it died."""


class WorkerDeaths:
    """How many processes of each stage died in one run of a study."""

    def __init__(self, store: Store | None = None) -> None:
        """Begin with none; each gets an entry of kind ``loss``, which outlives this process."""
        self._store = store
        self._run = uuid.uuid4().hex
        self._counts: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """Processes that died."""
        return self._counts.total()

    def note(self, stage: str, what: str = "") -> None:
        """Count one more of a stage such as ``trials``, and what it worked on if that is known."""
        self._counts[stage] += 1
        if self._store is None:
            return
        config = {"kind": "loss", "run": self._run, "number": self.total}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with contextlib.suppress(StoreError):  # such as a full disk: no result depends on it
            self._store.write("loss", config, {"stage": stage, "what": what, "time": now})

    def sentence(self) -> str:
        """Say how many there were, and in which stages; nothing if there were none."""
        if not self.total:
            return ""
        stages = ", ".join(f"{count} of {stage}" for stage, count in self._counts.items())
        died = "processes" if self.total > 1 else "process"
        return f"{self.total} worker {died} died; what was lost was done again ({stages})"
