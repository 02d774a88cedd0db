"""A recorder in a Trainer of Hugging Face's transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike

from raydrop.errors import ConfigError
from raydrop.scores.recorder import Recorder

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ConfigError(
        "Expected the package transformers for TransformersRecorder, found none; pip install "
        "'raydrop[huggingface]'."
    ) from error

FILE = "raydrop_recorder.npz"
"""In each of the trainer's checkpoints."""


class TransformersRecorder(TrainerCallback):
    """Notes what a model says of the samples that it is trained on.

    A Trainer shows its callbacks neither batches nor outputs, so this one listens to the model: it
    takes ``index`` out of what the model is called with, where :func:`raydrop.with_indices` has put
    it, and reads ``logits`` and ``labels`` while the model is trained. For ``index`` to get there,
    the arguments need ``remove_unused_columns=False``. The recorder is saved with the trainer's
    checkpoints, and taken from the one that a training is resumed from. Under several processes
    each records what it sees, and all know everything when the training ends.

    Example::

        recorder = rd.Recorder(len(train), num_classes)
        trainer = Trainer(
            model,
            TrainingArguments("out", remove_unused_columns=False),
            train_dataset=rd.with_indices(train),
            callbacks=[rd.integrations.TransformersRecorder(recorder)],
        )
        trainer.train()
        scores = recorder.scores("forgetting")
    """

    def __init__(
        self, recorder: Recorder, index: str = "index", labels: ArrayLike | None = None
    ) -> None:
        """Bind a recorder, the name of the index, and all labels (N,) if the model gets none."""
        self.recorder = recorder
        self._index = index
        self._labels = None if labels is None else torch.as_tensor(labels)
        self._handles: list[Any] = []
        self._batch: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Listen to the model, and take up what was recorded before a resumed training."""
        self._remove()
        model = kwargs["model"]
        if args.remove_unused_columns:
            raise ConfigError(
                f"Expected remove_unused_columns=False, so that {self._index!r} gets to the model, "
                "found True; set it in the TrainingArguments."
            )
        self._handles = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after, with_kwargs=True),
        ]
        saved = self._file(args, state)
        if state.global_step and saved.exists():
            self.recorder.load_state_dict(Recorder.load(saved).state_dict())

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """End an epoch."""
        self.recorder.end_epoch()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Save what was recorded beside the model."""
        if state.is_world_process_zero:
            self.recorder.save(self._file(args, state))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Listen no more, and put together what several processes saw."""
        self._remove()
        self.recorder.gather()

    def _before(self, module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        kwargs = dict(kwargs)
        indices = kwargs.pop(self._index, None)
        if module.training:
            labels = kwargs.get("labels")
            if indices is None:
                raise ConfigError(
                    f"Expected the model to be called with {self._index!r}, found "
                    f"{', '.join(map(str, kwargs)) or 'nothing by name'}; wrap the training set "
                    "in raydrop.with_indices."
                )
            if self._labels is not None:
                labels = self._labels[indices.cpu()]
            if labels is None:
                raise ConfigError(
                    "Expected the model to be called with labels, found none; give those of all "
                    "samples to TransformersRecorder, as labels=."
                )
            self._batch = indices, labels
        return args, kwargs

    def _after(self, module: Any, args: Any, kwargs: Any, outputs: Any) -> None:  # noqa: ARG002
        if self._batch is None:
            return
        (indices, labels), self._batch = self._batch, None
        logits = outputs.get("logits") if isinstance(outputs, dict) else outputs
        self.recorder.update(indices, logits, labels)

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._batch = [], None

    @staticmethod
    def _file(args: Any, state: Any) -> Path:
        return Path(args.output_dir) / f"checkpoint-{state.global_step}" / FILE
