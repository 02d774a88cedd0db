"""A recorder in a Trainer of Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from raydrop.errors import ConfigError
from raydrop.scores.recorder import Recorder

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError as error:
        raise ConfigError(
            "Expected the package lightning for LightningRecorder, found none; pip install "
            "'raydrop[lightning]'."
        ) from error

LABELS = ("label", "labels", "y", "target", "targets")
"""Names that labels are looked for by in batches that are dicts."""


class LightningRecorder(Callback):
    """Notes what a LightningModule says of the samples that it is trained on.

    The data loader's items begin with their index, or are dicts that have it as ``index``, as
    :func:`raydrop.with_indices` makes them; labels come last, or by name. Logits are what
    ``training_step`` returns as ``logits`` beside the loss; where it returns the loss alone, they
    are what the module's own ``forward`` returned last. An epoch of the trainer is one of the
    recorder. The recorder is part of the trainer's checkpoints; under several processes each
    records what it sees, and all know everything when the training ends.

    Example::

        recorder = rd.Recorder(len(train), num_classes)
        loader = DataLoader(rd.with_indices(train), batch_size=128, shuffle=True)
        # in the module: `_, x, y = batch`, and `return {"loss": loss, "logits": logits}`
        trainer = Trainer(callbacks=[rd.integrations.LightningRecorder(recorder)])
        trainer.fit(module, loader)
        scores = recorder.scores("forgetting")
    """

    def __init__(self, recorder: Recorder, index: str = "index", label: str | None = None) -> None:
        """Bind a recorder, and the names of index and label in batches that are dicts."""
        self.recorder = recorder
        self._index, self._label = index, label
        self._handle: Any = None
        self._last: Any = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Listen to the module's forward."""

        def note(_: Any, __: Any, outputs: Any) -> None:
            self._last = outputs if pl_module.training else self._last

        self._handle = pl_module.register_forward_hook(note)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002
        """Listen no more."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = self._last = None

    def on_train_batch_end(
        self,
        trainer: Any,  # noqa: ARG002
        pl_module: Any,  # noqa: ARG002
        outputs: Any,
        batch: Any,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Note a batch."""
        logits = outputs.get("logits") if isinstance(outputs, Mapping) else None
        logits, self._last = self._last if logits is None else logits, None
        if logits is None:
            raise ConfigError(
                "Expected logits of the batch, found none; have training_step return "
                '{"loss": loss, "logits": logits}, or call self(inputs).'
            )
        self.recorder.update(*self._samples(batch, logits))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """End an epoch."""
        self.recorder.end_epoch()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Put together what several processes saw."""
        self.recorder.gather()

    def state_dict(self) -> dict[str, Any]:
        """Return what goes into a checkpoint."""
        return self.recorder.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.recorder.load_state_dict(state_dict)

    def _samples(self, batch: Any, logits: Any) -> tuple[Tensor, Any, Tensor]:
        """Return indices, logits and labels of a batch."""
        if isinstance(batch, Mapping):
            names = [self._label] if self._label else [name for name in LABELS if name in batch]
            if self._index in batch and names and names[0] in batch:
                return batch[self._index], logits, batch[names[0]]
            found = f"a batch of {', '.join(map(str, batch))}"
        else:
            if isinstance(batch, tuple | list) and len(batch) > 2:
                return batch[0], logits, batch[-1]
            size = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
            found = f"a {type(batch).__name__}{size}"
        raise ConfigError(
            f"Expected batches of an index, inputs and a label, found {found}; wrap the data set "
            "in raydrop.with_indices, and give the names of index and label if they are others."
        )
