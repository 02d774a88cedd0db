"""MoSo on CIFAR-100 with the settings of its paper: which images can go?

Tan et al. 2023 (arXiv 2310.14664) cut the training set into eight parts, train a surrogate of 50
epochs on each, score by ten of its checkpoints, keep the best of every class, and train 200 epochs
on what is left. What differs here: parts are stratified and random, scores are taken without
augmentation, and all parts share their seeded checkpoints. The schedule is a cosine to zero, where
the paper's ends at 1e-4, a thousandth of its start. The paper's learning rate and momentum for the
surrogates are used for the targets too.

``--scale small`` is the same study in small, on scikit-learn's digits: minutes on two cores::

    raydrop run sweeps/moso_cifar100.py --scale small
"""

import dataclasses

from ray import tune

from raydrop import Study, Training, sweep_main

study = Study(
    name="moso_cifar100",
    dataset="cifar100",
    model="resnet50",
    param_space={
        "method": tune.grid_search(["random", "el2n", "moso", "moso_loo"]),
        "quotas": "proportional",
        "prune_fraction": tune.grid_search([0.2, 0.4, 0.6, 0.7, 0.8]),
    },
    training=Training(
        epochs=200,
        batch_size=256,
        learning_rate=0.1,
        nesterov=True,
        weight_decay=5e-4,
        gradient_clip=1.0,
    ),
    # Surrogates and the query run of el2n; augmented, as networks are on CIFAR.
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
    name="moso_cifar100_small",
    dataset="digits",
    model="small_cnn",
    seeds=(0, 1),
    training=dataclasses.replace(study.training, epochs=20, batch_size=32),
    # The paper's ratio of rate to batch size: a small surrogate swings too much with a higher one.
    query_training=Training(
        epochs=15, batch_size=64, learning_rate=0.025, nesterov=True, weight_decay=2e-4
    ),
    partitions=4,
    checkpoints=5,
)

if __name__ == "__main__":
    sweep_main()
