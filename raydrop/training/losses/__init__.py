"""Losses of the final training: what each class, group or sample weighs; one family per file.

A loss is made anew for each training, from what is kept (:class:`LossContext`). It may look at the
recalls on the validation set after each epoch, never at the test set. :data:`LOSSES` lists them.

One convention for all weights but those of ``cdb_w``, which divides by the sum of the weights in
the batch as DRoP does: losses of samples are multiplied by their weights and *averaged plainly*, so
the weights' scale matters and each docstring says what they sum to.
"""

from __future__ import annotations

from dataclasses import dataclass

from raydrop.study.catalogue import Catalogue, Entry, Named, Parameter
from raydrop.training.losses.base import (
    Loss,
    LossContext,
    ReferenceLoss,
    Stage,
    batch_loss,
    weighted_cross_entropy,
)
from raydrop.training.losses.cross_entropy import CrossEntropy
from raydrop.training.losses.difficulty import CdbW, CdbWOriginal, cdb_weights
from raydrop.training.losses.focal import Focal
from raydrop.training.losses.frequency import (
    ClassBalanced,
    InverseFrequency,
    effective_number_weights,
    inverse_frequency_weights,
)
from raydrop.training.losses.group_dro import GroupDro
from raydrop.training.losses.ldam import LdamDrw, ldam_margins
from raydrop.training.losses.logit_adjusted import LogitAdjusted, log_priors
from raydrop.training.losses.pw import PwLoss, make_pw, pw_loss, pw_targets, pw_weights


@dataclass(frozen=True)
class LossFamily(Entry[Loss]):
    """Losses of one formula."""

    reads_reference: bool = False
    """Whether it reads, at some stage, what the dense network says of the images."""


LossRule = Named[Loss]

LOSSES = Catalogue(
    "loss",
    (
        LossFamily("cross_entropy", CrossEntropy, "every sample weighs the same", ""),
        LossFamily(
            "cdb_w",
            CdbW,
            "classes (or groups) weigh 1 - recall of the previous epoch on validation",
            "Sinha et al. 2020, arXiv 2010.01824; Vysogorets et al. 2025, arXiv 2404.05579",
        ),
        LossFamily(
            "cdb_w_original",
            CdbWOriginal,
            "they weigh (1 - recall)^tau, tau a number or dynamic, summing to their number",
            "Sinha et al. 2020, arXiv 2010.01824",
            (Parameter("tau", "dynamic", words=("dynamic",)),),
        ),
        LossFamily(
            "inverse_frequency",
            InverseFrequency,
            "classes (or groups) count alike, whatever their sizes",
            "the usual form of balanced weights; King and Zeng 2001",
        ),
        LossFamily(
            "class_balanced",
            ClassBalanced,
            "classes (or groups) weigh the inverse of their effective number of samples",
            "Cui et al. 2019, arXiv 1901.05555",
            (Parameter("beta", 0.9999, below=1.0),),
        ),
        LossFamily(
            "focal",
            Focal,
            "samples weigh (1 - p)^gamma, p the probability of their class",
            "Lin et al. 2017, arXiv 1708.02002",
            (Parameter("gamma", 2.0),),
        ),
        LossFamily(
            "logit_adjusted",
            LogitAdjusted,
            "tau times the log of the class priors is added to the logits in training",
            "Menon et al. 2021, arXiv 2007.07314",
            (Parameter("tau", 1.0),),
        ),
        LossFamily(
            "ldam_drw",
            LdamDrw,
            "larger margins for smaller classes; re-weighted in the last fifth of the epochs",
            "Cao et al. 2019, arXiv 1906.07413",
            (Parameter("max_margin", 0.5), Parameter("scale", 30.0)),
        ),
        LossFamily(
            "group_dro",
            GroupDro,
            "groups (or classes) weigh more, exponentially, the higher their losses are",
            "Sagawa et al. 2020, arXiv 1911.08731",
            (Parameter("step", 0.01),),
        ),
        LossFamily(
            "pw",
            make_pw,
            "samples that the dense network gets right weigh less, and are labelled by it",
            "Meyer and Wong 2022, arXiv 2211.10285",
            (
                Parameter("theta", 0.5, most=1.0),
                Parameter("gamma", 1.0),
                Parameter("weights", "pw", words=("pw", "off"), numeric=False, named=True),
                Parameter(
                    "labels",
                    "corrected",
                    words=("corrected", "hard", "soft"),
                    numeric=False,
                    named=True,
                ),
                Parameter(
                    "stage", "both", words=("both", "prune", "retrain"), numeric=False, named=True
                ),
                Parameter("normalise", "none", words=("none", "mean1"), numeric=False, named=True),
            ),
            reads_reference=True,
        ),
    ),
    example="focal(2)",
)
"""Every family of losses by name."""


def loss_rule(text: str) -> LossRule:
    """Return the loss that a text such as ``focal(2)`` names, its parameters spelled out.

    Raises:
        ConfigError: If there is none, in which case the message lists the nearest names, or if its
            parameters do not fit.

    Example:
        >>> loss_rule("focal").name, loss_rule("cdb_w_original(tau=0.50)").name
        ('focal(2)', 'cdb_w_original(0.5)')
    """
    return LOSSES.named(text)


def reads_reference(rule: LossRule) -> bool:
    """Return whether a loss reads what the dense network says of the images, at some stage.

    What :func:`loss_rule` makes for one stage says it for that stage, by ``needs_reference``.

    Example:
        >>> reads_reference(loss_rule("pw(0.3, 1)")), reads_reference(loss_rule("focal"))
        (True, False)
    """
    return LOSSES[rule.entry.name].reads_reference


__all__ = [
    "LOSSES",
    "CdbW",
    "CdbWOriginal",
    "ClassBalanced",
    "CrossEntropy",
    "Focal",
    "GroupDro",
    "InverseFrequency",
    "LdamDrw",
    "LogitAdjusted",
    "Loss",
    "LossContext",
    "LossFamily",
    "LossRule",
    "PwLoss",
    "ReferenceLoss",
    "Stage",
    "batch_loss",
    "cdb_weights",
    "effective_number_weights",
    "inverse_frequency_weights",
    "ldam_margins",
    "log_priors",
    "loss_rule",
    "pw_loss",
    "pw_targets",
    "pw_weights",
    "reads_reference",
    "weighted_cross_entropy",
]
