"""Training dynamics out of anybody's own loop, and the scores that are made of them."""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from raydrop.errors import ConfigError, ScoringError, StoreError, TrainingDivergedError, in_one_line
from raydrop.models.adapter import adapted
from raydrop.scores import METHODS, score_method
from raydrop.scores.base import SamplingMethod, ScoreMethod, TraceMethod, from_seen
from raydrop.scores.own import OwnData, own_data
from raydrop.store.files import expecting, open_regular, read_npy_header, written_whole
from raydrop.study import derive_seed
from raydrop.training.checkpoints import score_epoch as epoch_at
from raydrop.training.trace import Trace, observe

if TYPE_CHECKING:
    from raydrop.selection.scores import Scores

EARLY = 0.1
"""Share of the recorded epochs after which early-training scores look, as in a study."""

_PENDING = 2**22
"""Logits that wait to be looked at together."""
_WHOLE = {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
_FIELDS = tuple(field.name for field in fields(Trace))
_ABSENT = {"correct": False}  # all else is NaN

Rows = dict[str, NDArray[Any]]
"""Observations of an epoch by name, (N,) each."""
Raw = tuple[Tensor, Tensor, Tensor]
"""Indices (B,), labels (B,) and logits (B, K) that nobody has looked at."""


class Recorder:
    """Notes what a model says of every training sample in every epoch of any training loop.

    What is noted is what a query run of a study notes, the :class:`~raydrop.training.trace.Trace`.
    It may come from the batches that are trained on anyway, at next to no cost, or, as in a study,
    from a pass over the data after each epoch: :meth:`observe`. Samples may come in any order, on
    any device, and be missing in some epochs.

    Example:
        >>> recorder = Recorder(4, num_classes=2)
        >>> for logits in ([2.0, -1.0], [0.5, 0.0], [-1.0, 1.0]):
        ...     outputs = torch.tensor([logits, logits, [1.0, 0.0], [0.0, 1.0]])
        ...     recorder.update([0, 1, 2, 3], outputs, labels=[0, 1, 0, 1])
        ...     recorder.end_epoch()
        >>> recorder.scores("forgetting").values.tolist()
        [1.0, 0.0, 0.0, 0.0]
    """

    def __init__(self, n: int, num_classes: int) -> None:
        """Record ``n`` samples, known by their indices 0...n-1, of ``num_classes`` classes."""
        if n < 1 or num_classes < 2:
            raise ConfigError(
                f"Expected at least one sample and two classes, found {n} and {num_classes}; give "
                "the size of the training set and the number of its classes."
            )
        self.n, self.num_classes = n, num_classes
        self.labels: NDArray[np.int64] = np.full(n, -1)
        """Class of each sample as it was told, (N,); -1 where none was."""
        self._rows: list[Rows] = []
        self._ended: list[Raw] = []  # epochs after those of the rows
        self._gap_is_said = False
        self._own: tuple[Any, OwnData] | None = None
        self._begin()

    def _begin(self) -> None:
        """Forget the epoch that is not at its end."""
        self._waiting: list[Raw] = []
        self._observed: list[tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]] = []
        self._count = self._looked = 0  # of samples, and of those that were looked at
        self._place: torch.device | None = None

    @property
    def epochs(self) -> int:
        """Number of epochs that are at their end."""
        return len(self._rows) + len(self._ended)

    @property
    def trace(self) -> Trace:
        """All of them, (E, N) each; a sample that was not seen in an epoch is NaN there."""
        trace = Trace.empty(self.epochs, self.n)
        for name, values in trace.as_arrays().items():
            for epoch, rows in enumerate(self._looked_at()):
                values[epoch] = rows[name]
        return trace

    @property
    def losses(self) -> NDArray[np.float64]:
        """Cross-entropy of each sample when it was last seen, (N,); NaN where it never was."""
        latest = np.full(self.n, np.nan)
        for rows in self._looked_at():
            latest = np.where(np.isnan(rows["probability"]), latest, rows["probability"])
        # The smallest normal number of float32 stands for what became 0.
        losses: NDArray[np.float64] = -np.log(np.maximum(latest, np.finfo(np.float32).tiny))
        return losses

    def update(self, indices: ArrayLike | Tensor, logits: Any, labels: ArrayLike | Tensor) -> None:
        """Note a batch of the epoch that is under way.

        Logits are copied, and looked at many batches at a time, on their device. The very first
        batch is checked at once, if it is not on a GPU, and all others at their epoch's end.

        Args:
            indices: Of the samples in the training set, (B,).
            logits: (B, K), with or without gradient, or a model's output that has ``.logits``.
            labels: Classes 0...K-1, (B,).

        Raises:
            ConfigError: If the three do not fit together or to what was recorded before. The batch
                is not noted then.
        """
        if not isinstance(logits, Tensor):
            logits = torch.as_tensor(getattr(logits, "logits", logits))
        if not isinstance(indices, Tensor):
            indices = torch.as_tensor(indices)
        if not isinstance(labels, Tensor):
            labels = torch.as_tensor(labels)
        shape, place = logits.shape, logits.device
        if (
            len(shape) != 2
            or shape[1] != self.num_classes
            or not (indices.shape == labels.shape == shape[:1])
            or indices.dtype not in _WHOLE
            or labels.dtype not in _WHOLE
        ):
            raise self._unfit(indices, logits, labels)
        if not (self._count or self.epochs) and {indices.device.type, labels.device.type} == {
            "cpu"
        }:
            self._check(indices.numpy(), labels.numpy())
        count = self._count + shape[0]
        if count > self.n:
            raise ConfigError(
                f"Expected each of {self.n} samples once in an epoch, found more; call end_epoch() "
                "after each pass over the data."
            )
        if place != self._place or (count - self._looked) * shape[1] > _PENDING:
            self._look()
            self._place, self._looked = place, self._count
        self._waiting.append((indices, labels, logits.detach().clone()))
        self._count = count

    def _unfit(self, indices: Tensor, logits: Tensor, labels: Tensor) -> ConfigError:
        """Say which part of a batch is of another form than it has to be."""
        shape = tuple(logits.shape)
        if len(shape) != 2 or shape[1] != self.num_classes:
            return ConfigError(
                f"Expected logits of shape (B, {self.num_classes}), a number for every class, "
                f"found {shape}; give the model's outputs before the softmax."
            )
        fits = indices.shape == shape[:1] and indices.dtype in _WHOLE
        name, values = ("labels", labels) if fits else ("indices", indices)
        return ConfigError(
            f"Expected {name} as one whole number for each of {shape[0]} samples, found "
            f"{values.dtype} of shape {tuple(values.shape)}; give those of this batch."
        )

    def observe(self, model: torch.nn.Module, data: Any) -> None:
        """Note what a model says now of every sample, in eval mode and without augmentation.

        This is one forward pass over the data, as a query run of a study makes it after each epoch.

        Args:
            model: Takes the inputs of a batch, and returns logits (B, K), or what has ``.logits``.
            data: Whatever :func:`raydrop.score` takes; samples are known by their positions in it.
        """
        # The data are read once, however many epochs there are.
        if self._own is None or self._own[0] is not data:
            self._own = data, own_data(data)
        own, start = self._own[1], 0
        modes = {module: module.training for module in model.modules()}
        wrapped = adapted(model.eval(), own.spec, self.num_classes)
        try:
            for logits, labels in own.logits(wrapped):
                self.update(torch.arange(start, start + len(labels)), logits, labels)
                start += len(labels)
        finally:
            for module, mode in modes.items():
                module.training = mode

    def end_epoch(self) -> None:
        """End an epoch: what was not seen in it is NaN there, which is said once.

        Raises:
            ConfigError: If nothing was seen, or indices or labels are wrong; the epoch is forgotten
                then, and those before it stay.
            TrainingDivergedError: If logits were no finite numbers, likewise.
        """
        if self._observed:
            self._look()
        waiting, observed = self._waiting, self._observed
        self._begin()
        if not (waiting or observed):
            raise ConfigError(
                "Expected an epoch in which samples were seen, found none; call update() with each "
                "batch, or observe(), before end_epoch()."
            )
        if waiting:
            raw = _joined(waiting)
            indices, labels = raw[0].cpu().numpy(), raw[1].cpu().numpy()
            odd = None
            if not math.isfinite(raw[2].sum(dtype=torch.float32).item()):  # cheaper than of each
                odd = ~raw[2].isfinite().all(1)
        else:
            indices = torch.cat([part[0].cpu() for part in observed]).numpy()
            labels = torch.cat([part[1].cpu() for part in observed]).numpy()
            odd = torch.cat([part[2].cpu() for part in observed])
        known = self._is_as_before(indices, labels)
        if not known:
            self._check(indices, labels)
        if odd is not None and odd.any():
            raise TrainingDivergedError(
                f"Expected finite logits, found some that are not of {int(odd.sum())} samples, "
                f"first at index {indices[odd.cpu().numpy()].min()}; lower the learning rate, or "
                "clip gradients."
            )
        if not known:
            self.labels[indices] = labels
        if waiting:
            self._ended.append(raw)
            if len(self._ended) * self.n * self.num_classes > _PENDING:
                self._looked_at()
        else:
            values = {
                name: torch.cat([part[3][name].cpu() for part in observed]).numpy()
                for name in _FIELDS
            }
            self._looked_at().append(_placed(values, indices, self.n))
        unseen = self.n - len(indices)
        if unseen and not self._gap_is_said:
            self._gap_is_said = True
            warnings.warn(
                f"{unseen} of {self.n} samples were not seen in epoch {self.epochs}: they are NaN "
                "there, and scores leave that epoch out for them. This is said once.",
                stacklevel=2,
            )

    def scores(
        self, method: str | ScoreMethod, *, score_epoch: int | None = None, seed: int = 0
    ) -> Scores:
        """Return scores of all samples by a method that reads training dynamics.

        A sample's dynamics are those of the epochs in which it was seen, one after the other, as if
        there had been no others: ``forgetting`` compares an epoch with the one before it in which
        the sample was seen, ``aum`` averages over those epochs, windows of ``dynamic_uncertainty``
        slide over them, ``entropy`` reads the last of them, ``el2n`` the last up to
        ``score_epoch``, or else the first, and ``ccs`` draws by that ``aum``.

        Args:
            method: Such as ``el2n``, ``forgetting``, ``aum``, ``dynamic_uncertainty``, ``entropy``,
                ``ccs``, or a method of one's own.
            score_epoch: At which early-training scores look, from 1; that after a tenth of the
                recorded ones by default.
            seed: Of methods that draw at random.

        Raises:
            ConfigError: If there is no such method, it reads something else, or no epoch is there.
            ScoringError: If a sample was never seen; the message names the first by their indices.
        """
        from raydrop.selection.scores import Scores

        made = score_method(method)
        if not isinstance(made, TraceMethod | SamplingMethod):
            readers = TraceMethod, SamplingMethod
            known = [name for name in METHODS if isinstance(score_method(name), readers)]
            raise ConfigError(
                f"Expected a method that reads training dynamics ({', '.join(known)}), found "
                f"{made.name}, which reads something else; use raydrop.score for it."
            )
        if not self.epochs or self._count:
            found = f"{self._count} samples of one that is not" if self._count else "none"
            raise ConfigError(
                f"Expected epochs that are at their end, found {found}; call end_epoch() first."
            )
        at = score_epoch or epoch_at(self.epochs, EARLY)
        if not 1 <= at <= self.epochs:
            raise ConfigError(
                f"Expected score_epoch from 1 to {self.epochs}, found {at}; choose an epoch that "
                "was recorded."
            )
        trace = self.trace
        never = np.flatnonzero(np.isnan(trace.probability).all(axis=0))
        if len(never):
            raise ScoringError(
                f"Expected every sample to be seen in an epoch, found {len(never)} of {self.n} "
                f"never, first those with the indices {never[:5].tolist()}; record them too, such "
                "as by observe(), or the others alone."
            )
        if isinstance(made, TraceMethod):
            values = from_seen(made, trace, at)
        else:
            values = made.draw_from_trace(trace, derive_seed(seed, f"scores/{made.name}"))
        known_labels = self.labels.copy()
        return Scores(np.asarray(values), made.name, made.higher_is_kept, labels=known_labels)

    def merge(self, other: Recorder) -> None:
        """Add what another process saw in the same epochs; what both saw stays as it is here.

        Raises:
            ConfigError: If the other is of other data, or of another number of epochs.
        """
        mine, theirs = (
            (each.n, each.num_classes, each.epochs, each._count) for each in (self, other)
        )
        if mine != theirs or self._count:
            raise ConfigError(
                "Expected recorders of the same samples and classes, after the same number of "
                f"epochs, all at their end, found (samples, classes, epochs, samples of an epoch "
                f"under way) {mine} and {theirs}; merge them at the end of an epoch."
            )
        known = np.flatnonzero(other.labels >= 0)
        self._check_known(known, other.labels[known])
        for rows, more in zip(self._looked_at(), other._looked_at(), strict=True):
            missing = np.isnan(rows["probability"])
            for name in _FIELDS:
                rows[name] = np.where(missing, more[name], rows[name])
        self.labels[known] = other.labels[known]

    def gather(self) -> None:
        """Add what all other processes of ``torch.distributed`` saw, in each of them.

        Nothing happens where there is one process alone; errors are those of :meth:`merge`.
        """
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()):
            return
        found: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(found, self.state_dict())
        for state in found[: distributed.get_rank()] + found[distributed.get_rank() + 1 :]:
            other = Recorder(self.n, self.num_classes)
            other.load_state_dict(state)
            self.merge(other)

    def state_dict(self) -> dict[str, Any]:
        """Return all of it as tensors and numbers, an epoch under way included, to resume from."""
        self._look()
        epochs, under_way = list(self._looked_at()), self._count > 0
        labels = self.labels.copy()
        if under_way:
            rows = _absent(self.n)
            for indices, own, _, observed in self._observed:
                places = indices.cpu().numpy()
                labels[places] = own.cpu().numpy()
                for name in _FIELDS:
                    rows[name][places] = observed[name].cpu().numpy()
            epochs.append(rows)
        stacked = {
            name: torch.from_numpy(np.array([rows[name] for rows in epochs]).reshape(-1, self.n))
            for name in _FIELDS
        }
        facts = {"num_classes": self.num_classes, "under_way": int(under_way)}
        return {**facts, "labels": torch.from_numpy(labels), **stacked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned, or raise a ConfigError if it does not fit."""
        arrays = {name: np.asarray(state[name]) for name in ("labels", *_FIELDS)}
        found = len(arrays["labels"]), int(state["num_classes"])
        if found != (self.n, self.num_classes):
            raise ConfigError(
                f"Expected a record of {self.n} samples and {self.num_classes} classes, found one "
                f"of {found[0]} and {found[1]}; make the recorder for the same data."
            )
        self._begin()
        self.labels = arrays["labels"].copy()
        kinds = Trace.empty(0, 0)
        rows = [
            {name: each[epoch].astype(getattr(kinds, name).dtype) for name, each in arrays.items()
             if name != "labels"}
            for epoch in range(len(arrays["probability"]))
        ]  # fmt: skip
        if int(state["under_way"]):
            last = rows.pop()
            places = np.flatnonzero(~np.isnan(last["probability"]))
            values = {name: torch.from_numpy(last[name][places]) for name in _FIELDS}
            labels = torch.from_numpy(self.labels[places])
            odd = torch.zeros(len(places), dtype=torch.bool)
            self._observed = [(torch.from_numpy(places), labels, odd, values)]
            self._count = len(places)
        self._rows, self._ended = rows, []

    def save(self, path: str | Path) -> None:
        """Write :meth:`state_dict` as one archive of arrays, without pickle, or a StoreError."""
        with (
            expecting(f"to write {path}", "free space there, or choose another file"),
            written_whole(Path(path)) as file,
        ):
            np.savez(file, allow_pickle=False, **self.state_dict())

    @classmethod
    def load(cls, path: str | Path) -> Recorder:
        """Return a recorder as :meth:`save` left it; a StoreError if there is none."""
        try:
            arrays = _read_arrays(Path(path))
            recorder = cls(len(arrays["labels"]), int(arrays["num_classes"]))
            recorder.load_state_dict(arrays)
        except (OSError, zipfile.BadZipFile, LookupError, TypeError, ValueError) as error:
            raise StoreError(
                f"Expected a record of training at {path}, found {in_one_line(error)}; give a file "
                "that Recorder.save wrote."
            ) from error
        return recorder

    def _look(self) -> None:
        """Observe the batches that wait, on their device."""
        if self._waiting:
            raw = _joined(self._waiting)
            odd = ~raw[2].isfinite().all(1)
            self._observed.append((*raw[:2], odd, self._observe(*raw[1:])))
            self._waiting = []

    def _looked_at(self) -> list[Rows]:
        """Return the observations of all epochs that are at their end, epoch by epoch."""
        if self._ended:
            indices, labels, logits = _joined(self._ended)
            found = self._observe(labels, logits)
            values = {name: each.cpu().numpy() for name, each in found.items()}
            ends = np.cumsum([len(each[1]) for each in self._ended]).tolist()
            places = indices.cpu().numpy()
            for start, stop in zip([0, *ends[:-1]], ends, strict=True):
                own = {name: each[start:stop] for name, each in values.items()}
                self._rows.append(_placed(own, places[start:stop], self.n))
            self._ended = []
        return self._rows

    def _observe(self, labels: Tensor, logits: Tensor) -> dict[str, Tensor]:
        # On a GPU, labels out of range would end the process; they are refused later.
        within = labels.to(logits.device).long().clamp(0, self.num_classes - 1)
        return observe(logits.float(), within)

    def _is_as_before(self, indices: NDArray[Any], labels: NDArray[Any]) -> bool:
        """Tell, at little cost, whether all is well: other samples each, of labels as known."""
        try:
            known = self.labels[indices]
            same = bool((known == labels).all()) and known.min() >= 0
            return bool(same and np.bincount(indices).max() <= 1)
        except (IndexError, ValueError):  # beyond the last, or negative
            return False

    def _check(self, indices: NDArray[Any], labels: NDArray[Any]) -> None:
        """Refuse what does not fit, or is there twice."""
        for name, values, size in (
            ("an index", indices, self.n),
            ("a label", labels, self.num_classes),
        ):
            if len(values) and not 0 <= values.min() <= values.max() < size:
                odd = values[(values < 0) | (values >= size)][0]
                raise ConfigError(
                    f"Expected {name} from 0 to {size - 1}, found {odd}; give positions in the "
                    f"training set of {self.n}, and classes numbered from 0."
                )
        ordered = np.sort(indices)
        again = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(again):
            raise ConfigError(
                f"Expected each sample once in an epoch, found index {again[0]} again; call "
                "end_epoch() after each pass over the data, and sample without replacement."
            )
        self._check_known(indices, labels)

    def _check_known(self, indices: NDArray[Any], labels: NDArray[Any]) -> None:
        """Refuse labels other than before: the indices are those of other samples then."""
        known = self.labels[indices]
        other = np.flatnonzero((known != labels) & (known >= 0))
        if len(other):
            at = other[0]
            raise ConfigError(
                f"Expected label {known[at]} of sample {indices[at]}, as in an earlier epoch, "
                f"found {labels[at]}; give the samples' indices in the data set, which stay the "
                "same whatever their order."
            )


def _joined(raw: list[Raw]) -> Raw:
    if len(raw) == 1:
        return raw[0]
    indices, labels, logits = zip(*raw, strict=True)
    return torch.cat(indices), torch.cat(labels), torch.cat(logits)


def _placed(values: Rows, indices: NDArray[np.int64], n: int) -> Rows:
    """Return observations (M,) of some of n samples at their places, (N,)."""
    rows = _absent(n)
    for name, row in rows.items():
        row[indices] = values[name]
    return rows


def _absent(n: int) -> Rows:
    """Return the rows of an epoch in which no sample was seen."""
    kinds = Trace.empty(0, 0)
    return {
        name: np.full(n, _ABSENT.get(name, np.nan), getattr(kinds, name).dtype) for name in _FIELDS
    }


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read arrays of numbers from an archive of ``np.savez``, each of the size that it says."""
    arrays = {}
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        for each in archive.infolist():
            with archive.open(each) as member:
                header = read_npy_header(member)
                if header.nbytes > each.file_size or each.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{each.filename} of another size than it says")
                content = member.read()
            values = np.frombuffer(content, header.dtype)
            shape = header.shape[::-1] if header.fortran_order else header.shape
            values = values.reshape(shape).T if header.fortran_order else values.reshape(shape)
            arrays[each.filename.removesuffix(".npy")] = values
    return arrays
