"""The sweeps of the performance weighted loss: their scales, settings and shared dense networks."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydrop.cli import load_sweep
from raydrop.cluster.space import expand
from raydrop.data import load_dataset, parse_spec
from raydrop.models import build_model
from raydrop.network import network_rule
from raydrop.network.base import parse_target
from raydrop.plan import trial_configs
from raydrop.study import Study, TrialConfig
from raydrop.training.losses import loss_rule

SWEEPS = Path(__file__).parent.parent / "sweeps"

SCALES = [
    ("celeba", None),
    ("celeba", "vgg16"),
    ("celeba", "small"),
    ("fitzpatrick", None),
    ("fitzpatrick", "small"),
    ("cifar10", None),
    ("cifar10", "imbalanced"),
    ("cifar10", "shortcut"),
    ("cifar10", "small"),
    ("cifar10", "small_shortcut"),
]

Reductions = tuple[float, ...]
CELEBA = (0.9375, 0.96875, 0.984375, 0.9921875, 0.99609375)
SKIN = (0.5, 0.75, 0.875, 0.9375, 0.96875)
CIFAR = (0.25, 0.5, 0.75, 0.875, 0.9375)


def study_of(sweep: str, scale: str | None) -> Study:
    return load_sweep(SWEEPS / f"pw_loss_{sweep}.py", scale)


def trials_of(study: Study) -> list[TrialConfig]:
    return list(trial_configs(study, expand(study)))


@pytest.mark.parametrize(("sweep", "scale"), SCALES)
def test_every_scale_is_a_study_that_trains_a_dense_network_per_seed(
    sweep: str, scale: str | None
) -> None:
    study = study_of(sweep, scale)
    assert study.name == "_".join(["pw_loss", sweep, *([scale] if scale else [])])
    parse_spec(study.dataset)
    trials = trials_of(study)
    dense = [trial for trial in trials if trial.network_method == "none"]
    assert [(trial.loss, trial.seed) for trial in dense] == [
        ("cross_entropy", seed) for seed in study.seeds
    ]
    for trial in trials:
        loss_rule(trial.loss)
        if trial.network_method != "none":
            structured = network_rule(trial.network_method).make().structured
            assert parse_target(trial.network_target, structured=structured).measure == "flops"
    # Every method and target is retrained with several losses, cross-entropy among them.
    cells = {(t.network_method, t.network_target) for t in trials} - {("none", "none")}
    for cell in cells:
        losses = {t.loss for t in trials if (t.network_method, t.network_target) == cell}
        assert "cross_entropy" in losses
        assert any(loss.startswith("pw(") for loss in losses)


@pytest.mark.parametrize(
    ("sweep", "scale", "reductions", "autobot", "taylor", "retraining"),
    [
        ("celeba", None, CELEBA, "pw(0.3, 1)", "pw(0.8, 0.5)", (1e-4, 256, 30)),
        ("celeba", "vgg16", CELEBA, "pw(0.75, 3)", "pw(0.9, 5)", (5e-4, 64, 10)),
        ("fitzpatrick", None, SKIN, "pw(0.8, 2.5)", "pw(0.95, 3)", (1e-4, 64, 30)),
        ("cifar10", None, CIFAR, "pw(0.5, 1)", "pw(0.5, 1)", (1e-3, 256, 200)),
        ("cifar10", "imbalanced", CIFAR, "pw(0.5, 1)", "pw(0.5, 1)", (1e-3, 256, 200)),
        ("cifar10", "shortcut", CIFAR, "pw(0.5, 1)", "pw(0.5, 1)", (1e-3, 256, 200)),
    ],
)
def test_settings_are_the_papers(
    sweep: str,
    scale: str | None,
    reductions: Reductions,
    autobot: str,
    taylor: str,
    retraining: tuple[float, int, int],
) -> None:
    study = study_of(sweep, scale)
    again = study.pruning_of_networks().retraining
    assert again is not None
    assert (again.learning_rate, again.batch_size, again.epochs) == retraining
    assert (again.optimizer, again.schedule) == ("adamw", "cosine")
    trials = trials_of(study)
    for method, loss in (("autobot", autobot), ("taylor_activation", taylor)):
        wanted = network_rule(method).name
        found = [t for t in trials if (t.network_method, t.loss, t.seed) == (wanted, loss, 0)]
        assert {t.network_target for t in found} == {f"flops({share})" for share in reductions}


@pytest.mark.parametrize(("sweep", "scale"), [case for case in SCALES if "small" in str(case[1])])
def test_small_scales_need_no_download_and_little_time(sweep: str, scale: str) -> None:
    study = study_of(sweep, scale)
    dataset = load_dataset(study.dataset)
    assert dataset.name.startswith("digits")
    assert bool(dataset.group_names) == (study.by == "group")
    build_model(study.model, dataset.num_classes, dataset.image_shape)
    retraining = study.pruning_of_networks().retraining
    assert retraining is not None
    epochs = len(study.seeds) * study.training.epochs + len(trials_of(study)) * retraining.epochs
    assert epochs * len(dataset.train) < 500_000
