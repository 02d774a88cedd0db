"""Are one network's MoSo scores good for another? Score with ResNet-50, train something else.

Every target is trained on what ResNet-50's scores keep, on what its own scores keep, and on a
uniform draw, at the same prune fractions. The paper (Tan et al. 2023, arXiv 2310.14664) takes SENet
and EfficientNet-B0 for targets. torchvision has no SENet, so ResNet-18 stands in for it; any of its
classification models can be a target, or the source: ``query_model`` is a key of the search space
like ``model``.

Scores are computed once for each source, whatever the number of targets. ``--scale small`` is the
same study in small, on scikit-learn's digits: minutes on two cores::

    raydrop run sweeps/moso_transfer.py --scale small
"""

import dataclasses
from typing import Any

from ray import tune

from raydrop import Study, Training, sweep_main


def spaces(source: str, targets: list[str], prune_fractions: list[float]) -> list[dict[str, Any]]:
    """Return the search spaces: own scores and uniform draws, and the source's scores."""
    common = {
        "model": tune.grid_search(targets),
        "prune_fraction": tune.grid_search(prune_fractions),
        "quotas": "proportional",
    }
    return [
        {**common, "method": tune.grid_search(["random", "moso"])},
        {**common, "method": "moso", "query_model": source},
    ]


study = Study(
    name="moso_transfer",
    dataset="cifar100",
    model="resnet50",
    param_space=spaces("resnet50", ["efficientnet_b0", "resnet18"], [0.2, 0.4, 0.6, 0.8]),
    training=Training(
        epochs=200,
        batch_size=256,
        learning_rate=0.1,
        nesterov=True,
        weight_decay=5e-4,
        gradient_clip=1.0,
    ),
    query_training=Training(
        epochs=50,
        batch_size=256,
        learning_rate=0.1,
        nesterov=True,
        weight_decay=2e-4,
    ),
    partitions=8,
    checkpoints=10,
)

small = dataclasses.replace(
    study,
    name="moso_transfer_small",
    dataset="digits",
    model="small_cnn",
    param_space=spaces("resnet56", ["small_cnn"], [0.2, 0.4, 0.6, 0.8]),
    seeds=(0, 1),
    training=dataclasses.replace(study.training, epochs=20, batch_size=32),
    # The paper's ratio of rate to batch size: a small surrogate swings too much with a higher one.
    query_training=Training(
        epochs=15, batch_size=64, learning_rate=0.025, nesterov=True, weight_decay=2e-4
    ),
    partitions=2,
    checkpoints=5,
)

if __name__ == "__main__":
    sweep_main()
