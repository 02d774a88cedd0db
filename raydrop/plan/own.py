"""What of the user's own a study names: to be said, and to be tried before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raydrop.data.dataset import LabelledDataset
from raydrop.errors import ConfigError, RaydropError, in_one_line
from raydrop.plan.runs import named_by
from raydrop.selection import QUOTAS, budget_for, quota_rule
from raydrop.study import Study, TrialConfig
from raydrop.study.sources import check_unchanged
from raydrop.training.losses import LOSSES, LossContext, batch_loss, loss_rule


@dataclass(frozen=True)
class OwnName:
    """Something that raydrop does not have, as a study names it."""

    axis: str
    """Field or axis that names it, such as ``model``."""
    text: str
    """Its canonical name, such as ``mypkg.net:SignNet(width=32)``."""
    source: str
    """Hash of its source, or the word that stands for it."""
    note: str = ""
    """What else there is to say of it."""
    origin: str = ""
    """Where it comes from: a distribution, or a file."""

    def __str__(self) -> str:
        """As in ``mypkg.net:SignNet(width=32), source 3fa2c1d0``."""
        source = self.source if self.source.startswith("version ") else f"source {self.source[:8]}"
        return ", ".join(filter(None, (self.text, source if self.source else "", self.note)))


def own_names(study: Study, trials: Iterable[TrialConfig]) -> tuple[OwnName, ...]:
    """Return what of the user's own some trials of a study name, each once.

    Raises:
        ConfigError: If something cannot be imported here.
    """
    axes = {("optimizer", study.training.optimizer)}
    axes |= {("train", study.train)} if study.train is not None else set()
    for trial in trials:
        fields = trial.as_dict()
        axes |= {(key, fields[key]) for key in ("quotas", "loss", "model")}
        axes |= {("model", trial.query_model)}
        axes |= {(k, fields[k]) for k in ("method", "network_method") if fields[k] != "none"}
    found: dict[OwnName, None] = {}
    for axis, text in sorted(axes):
        for where, named in named_by(study, **{axis: text}).items():
            entry = named.entry
            if entry.source or entry.unhashable:
                source = f"version {study.version}" if study.version else entry.source
                note = getattr(entry, "note", "")
                found[OwnName(where, named.name, source, note, entry.origin)] = None
    return tuple(found)


def try_own(study: Study, trials: Iterable[TrialConfig], dataset: LabelledDataset) -> None:
    """Call losses and rules of quotas of the user's own once, before anything is computed.

    Raises:
        ConfigError: If one raises, or gives something else than a loss, or quotas; or if a file has
            been changed since what the study names was imported from it.
    """
    trials = tuple(trials)
    for own in own_names(study, trials):
        if not study.version:
            check_unchanged(own.origin)
    for text in sorted({trial.loss for trial in trials}):
        if LOSSES.foreign(text) is not None:
            _try_loss(study, text, dataset)
    for text, keep in sorted({(trial.quotas, trial.keep_fraction) for trial in trials}):
        if QUOTAS.foreign(text) is not None:
            _try_quotas(study, text, keep, dataset)


def _try_loss(study: Study, text: str, dataset: LabelledDataset) -> None:
    sizes = dataset.class_sizes(), dataset.sizes(study.by)
    logits = torch.zeros(2, dataset.num_classes, requires_grad=True)
    units = torch.zeros(2, dtype=torch.int64)
    try:
        loss = loss_rule(text).make(LossContext(*sizes, study.by, study.training.epochs))
        found = batch_loss(loss, logits, units, units, logits.detach())
    except RaydropError:
        raise
    except Exception as error:  # whatever the user's code raises
        raise _unfit(text, f"a loss of logits {tuple(logits.shape)}", in_one_line(error)) from error
    if not isinstance(found, Tensor) or found.shape or not found.requires_grad:
        raise _unfit(text, "one number that has a gradient", "something else")


def _try_quotas(study: Study, text: str, keep: float, dataset: LabelledDataset) -> None:
    sizes, rule = dataset.sizes(study.by), quota_rule(text)
    budget = budget_for(len(dataset.train), keep)
    recalls = np.full(len(sizes), 0.5) if rule.needs_recalls else None
    try:
        quotas = np.asarray(rule.allocate(sizes, recalls, budget, study.minimum_per_class))
        fits = quotas.shape == sizes.shape and quotas.sum() == budget
    except RaydropError:
        raise
    except Exception as error:
        raise _unfit(text, "a rule of quotas", in_one_line(error)) from error
    if not fits:
        found = f"{quotas.sum()} among quotas of shape {quotas.shape}"
        raise _unfit(text, f"{len(sizes)} quotas that sum to the budget of {budget}", found)


def _unfit(text: str, wanted: str, found: str) -> ConfigError:
    return ConfigError(f"Expected {text} to be {wanted}, found {found}; mend it there.")
