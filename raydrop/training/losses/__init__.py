"""Losses of the final training: what each class, group or sample weighs; one family per file.

A loss is made anew for each training, from what is kept (:class:`LossContext`). It may look at the
recalls on the validation set after each epoch, never at the test set.

One convention for all weights but those of ``cdb_w``, which divides by the sum of the weights in
the batch as DRoP does: losses of samples are multiplied by their weights and *averaged plainly*, so
the weights' scale matters and each docstring says what they sum to.
"""

from __future__ import annotations

from raydrop.study.catalogue import Catalogue, Named
from raydrop.training.losses import (
    cross_entropy,
    difficulty,
    focal,
    frequency,
    group_dro,
    ldam,
    logit_adjusted,
    own,
    pw,
)
from raydrop.training.losses.base import Loss, LossContext, batch_loss
from raydrop.training.losses.cross_entropy import CrossEntropy
from raydrop.training.losses.difficulty import cdb_weights
from raydrop.training.losses.pw import pw_loss, pw_targets, pw_weights

LOSSES = Catalogue(
    "loss",
    (
        cross_entropy.FAMILY,
        difficulty.CDB_W,
        difficulty.CDB_W_ORIGINAL,
        frequency.INVERSE_FREQUENCY,
        frequency.CLASS_BALANCED,
        focal.FAMILY,
        logit_adjusted.FAMILY,
        ldam.FAMILY,
        group_dro.FAMILY,
        pw.FAMILY,
    ),
    example="focal(2)",
    adopt=own.own,
    group="raydrop.losses",
)
"""Every family of losses by name."""


def loss_rule(text: str) -> Named[Loss]:
    """Return the loss that a text such as ``focal(2)`` names, its parameters spelled out.

    Raises:
        ConfigError: If there is none, in which case the message lists the nearest names, or if its
            parameters do not fit.

    Example:
        >>> loss_rule("focal").name, loss_rule("cdb_w_original(tau=0.50)").name
        ('focal(2)', 'cdb_w_original(0.5)')
    """
    return LOSSES.named(text)


def reads_reference(rule: Named[Loss]) -> bool:
    """Return whether a loss reads what the dense network says of the images, at some stage.

    What it makes for one stage says so for that stage, by :attr:`Loss.needs_reference`.

    Example:
        >>> reads_reference(loss_rule("pw(0.3, 1)")), reads_reference(loss_rule("focal"))
        (True, False)
    """
    return bool(getattr(rule.entry.build, "needs_reference", False))


__all__ = [
    "LOSSES",
    "CrossEntropy",
    "Loss",
    "LossContext",
    "batch_loss",
    "cdb_weights",
    "loss_rule",
    "pw_loss",
    "pw_targets",
    "pw_weights",
    "reads_reference",
]
