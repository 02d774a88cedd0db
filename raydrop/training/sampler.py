"""Samples that are drawn anew for every epoch, by what a recorder has seen of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Sampler

from raydrop.data.sampling import raw_draws, shuffled
from raydrop.errors import ConfigError, unknown_name
from raydrop.selection.quotas import quotas_at_rates
from raydrop.selection.select import budget_for, checked_labels

Positions = NDArray[np.int64]
Floats = NDArray[np.float64]


class HasLosses(Protocol):
    """What a sampler reads of a :class:`raydrop.Recorder`."""

    n: int
    num_classes: int

    @property
    def epochs(self) -> int:
        """Number of epochs at their end."""

    @property
    def losses(self) -> Floats:
        """Cross-entropy of each sample when it was last seen, (N,); NaN where it never was."""


def with_indices(dataset: Any) -> Dataset[Any]:
    """Return a map-style data set that tells of each item which one it is.

    Items ``(input, label)`` become ``(index, input, label)``; those that are dicts get a key
    ``index``. Wrap the whole training set, and take a subset of that, so that indices are those of
    the whole one.

    Raises:
        ConfigError: If the data set is iterable-style, whose items have no indices.

    Example:
        >>> with_indices([("a", 0), ("b", 1)])[1]
        (1, 'b', 1)
        >>> with_indices([{"text": "a"}])[0]
        {'text': 'a', 'index': 0}
    """
    return _Indexed(dataset)


class _Indexed(Dataset[Any]):
    """See :func:`with_indices`."""

    def __init__(self, dataset: Any) -> None:
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
            raise ConfigError(
                "Expected a map-style data set, whose items have indices, found "
                f"{type(dataset).__name__}; give one with __getitem__ and __len__, or yield the "
                "index with each item yourself."
            )
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        index = int(index)
        return self._with(index, self._dataset[index])

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """Return several items, by the data set's own way where it has one."""
        read = getattr(self._dataset, "__getitems__", None)
        items = [self._dataset[index] for index in indices] if read is None else read(indices)
        return [self._with(index, item) for index, item in zip(indices, items, strict=True)]

    def _with(self, index: int, item: Any) -> Any:
        index = index % len(self._dataset)
        if isinstance(item, Mapping):
            return {**item, "index": index}
        return (index, *item) if isinstance(item, tuple | list) else (index, item)


class DynamicSampler(Sampler[int]):
    """Draws anew, for every epoch, which samples are trained on, and in which order.

    ``rs2`` (Okanovic et al. 2024, arXiv 2305.18424, without replacement): a random order is gone
    through m = ``keep_fraction`` · N samples at a time; where it ends, another one begins.

    ``infobatch`` (Qin et al. 2024, arXiv 2303.04947): of the samples whose loss is below the mean
    of all, a random ``keep_fraction`` = 1 - r is kept, r being the paper's pruning ratio; all
    others stay, so that an epoch has more than that share of the samples. The losses of the samples
    that were chosen so have to be multiplied by :meth:`weights`, 1 / (1 - r), which keeps the
    expected gradient. In the last eighth of ``epochs``, where that is said, everything is kept.

    ``rcap`` (Hassan et al. 2025, PMLR 286): class k gets m_k samples in proportion to √(L_k π_k),
    but all that it has at most, with L_k the mean loss of its samples, clipped to [0, log K], and
    π_k its share of the data; m = Σ m_k = ``keep_fraction`` · N. Within a class they are drawn
    without replacement with probabilities softmax(loss / ``temperature``). This was read off the
    authors' library, which takes for L_k the probability mass of what it drew before.

    Losses are those at which a sample was last seen; one that never was is kept by ``infobatch``,
    and has the loss log K for ``rcap``. A draw depends on the seed, the epoch and these losses
    alone, so a training that is resumed with its recorder and :meth:`set_epoch` goes on as it would
    have.

    Example:
        >>> from raydrop import Recorder
        >>> sampler = DynamicSampler(Recorder(10, 2), method="rs2", keep_fraction=0.5)
        >>> first, second = list(sampler), list(sampler)
        >>> len(sampler), sorted(first + second)
        (5, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """

    def __init__(
        self,
        recorder: HasLosses,
        labels: ArrayLike | None = None,
        *,
        method: str,
        keep_fraction: float,
        epochs: int | None = None,
        temperature: float = 2.0,
        seed: int = 0,
    ) -> None:
        """Bind a recorder, which has to be told of every epoch's end, and for ``rcap`` labels.

        Raises:
            ConfigError: If an argument is none of the above.
        """
        draws: dict[str, Callable[[], Positions]] = {
            "rs2": self._rs2,
            "infobatch": self._infobatch,
            "rcap": self._rcap,
        }
        if method not in draws:
            raise unknown_name("method of a dynamic sampler", method, draws)
        if method == "rcap" and labels is None:
            raise ConfigError(
                "Expected labels for rcap, which draws class by class, found none; give the class "
                "of every sample."
            )
        if not temperature > 0:
            raise ConfigError(
                f"Expected a temperature above 0, found {temperature}; 2 is usual, and lower ones "
                "favour samples of high loss more."
            )
        self._recorder, self._draw, self._seed = recorder, draws[method], seed
        self._fraction, self._temperature = keep_fraction, temperature
        self._budget = budget_for(recorder.n, keep_fraction)
        self._labels = None if labels is None else checked_labels(labels, recorder.n)[0]
        self._all_from = None if epochs is None else 0.875 * epochs
        self._method = method
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw for this epoch, from 0, next."""
        self._weights = torch.ones(self._recorder.n)
        self._left = np.empty(0, np.int64)
        """Of the order that ``rs2`` goes through."""
        self._drawn: Positions | None = None
        self._is_used, self._seen = True, -1
        self._epoch = 0 if self._method == "rs2" else epoch
        while self._epoch < epoch:  # what is left depends on all draws before
            self._rs2()
            self._epoch += 1

    def weights(self, indices: ArrayLike | Tensor) -> Tensor:
        """Return by what the losses of some samples of this epoch are to be multiplied, (B,)."""
        indices = torch.as_tensor(indices)
        return self._weights[indices.cpu()].to(indices.device)

    def __len__(self) -> int:
        return len(self._ready())

    def __iter__(self) -> Iterator[int]:
        if self._is_used:
            self._drawn = None
        drawn = self._ready()
        self._is_used = True
        return iter(drawn.tolist())

    def _ready(self) -> Positions:
        """Return the latest draw, or that of the next epoch once the recorder is at an end."""
        if self._drawn is None or (self._is_used and self._seen != self._recorder.epochs):
            self._weights = torch.ones(self._recorder.n)
            self._drawn = self._draw()
            self._is_used, self._seen = False, self._recorder.epochs
            self._epoch += 1
        return self._drawn

    def _purpose(self, what: str) -> str:
        return f"{self._method}/{what}/{self._epoch}"

    def _mixed(self, chosen: Positions) -> Positions:
        """Return positions in random order."""
        return chosen[shuffled(len(chosen), self._seed, self._purpose("order"))]

    def _rs2(self) -> Positions:
        first, self._left = np.split(self._left, [self._budget])
        missing = self._budget - len(first)
        if not missing:
            return first
        order = shuffled(self._recorder.n, self._seed, self._purpose("order"))
        # What is drawn in this epoch already has its turn at the end.
        again = np.isin(order, first)
        order = np.concatenate([order[~again], order[again]])
        self._left = order[missing:]
        return np.concatenate([first, order[:missing]])

    def _infobatch(self) -> Positions:
        losses = self._recorder.losses
        known = ~np.isnan(losses)
        low = np.zeros(len(losses), np.bool_)
        if known.any() and (self._all_from is None or self._epoch < self._all_from):
            low[known] = losses[known] < losses[known].mean()
        learned = np.flatnonzero(low)
        if not len(learned):
            return self._mixed(np.arange(len(losses)))
        count = budget_for(len(learned), self._fraction)
        chosen = learned[shuffled(len(learned), self._seed, self._purpose("learned"))[:count]]
        self._weights[chosen] = len(learned) / count
        return self._mixed(np.concatenate([np.flatnonzero(~low), chosen]))

    def _rcap(self) -> Positions:
        assert self._labels is not None
        most = float(np.log(self._recorder.num_classes))
        losses = np.nan_to_num(self._recorder.losses, nan=most).clip(0, most)
        sizes = np.bincount(self._labels)
        means = np.bincount(self._labels, losses) / np.maximum(sizes, 1)
        rates = np.sqrt(means * sizes / len(losses))
        least = int(self._budget >= np.count_nonzero(sizes))
        quotas = quotas_at_rates(sizes, rates, self._budget, least)
        # The largest of log p plus Gumbel noise are a draw without replacement in proportion to p.
        uniform = (raw_draws(len(losses), self._seed, self._purpose("noise")) + 0.5) / 2.0**64
        keys = losses / self._temperature - np.log(-np.log(uniform))
        order = np.lexsort((-keys, self._labels))
        place = np.arange(len(losses)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return self._mixed(np.sort(order[place < np.repeat(quotas, sizes)]))
