"""A fifth of the labels are wrong: which method throws out those, and which one keeps them?

The report shows what share of the mislabelled samples each method prunes; a uniform draw prunes as
large a share of them as of all. Methods that keep what is hard (el2n, forgetting, grand) keep wrong
labels; aum prunes margins that stay low, and tracin_self gradients that stay large, both of which
are signs of them. moso prunes what disagrees with the mean gradient. Wrong labels do, as long as
the surrogate learns what the samples have in common; once it fits them too, the mean gradient is
mostly theirs. So its share depends on how long and how hard the surrogates are trained.

``--scale small`` is the same study in small, on scikit-learn's digits: minutes on two cores::

    raydrop run sweeps/moso_label_noise.py --scale small
"""

import dataclasses

from ray import tune

from raydrop import Study, Training, sweep_main

METHODS = ["random", "moso", "moso_loo", "aum", "tracin_self", "el2n", "forgetting", "grand"]

study = Study(
    name="moso_label_noise",
    dataset="cifar100+label_noise(0.2)",
    model="resnet18",
    param_space={
        "method": tune.grid_search(METHODS),
        "quotas": "proportional",
        "prune_fraction": tune.grid_search([0.2, 0.4, 0.6, 0.8]),
    },
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
    name="moso_label_noise_small",
    dataset="digits+label_noise(0.2)",
    model="small_cnn",
    param_space={
        "method": tune.grid_search(METHODS),
        "quotas": "proportional",
        "prune_fraction": tune.grid_search([0.2, 0.4]),
    },
    seeds=(0, 1),
    training=dataclasses.replace(study.training, epochs=15, batch_size=32),
    # The paper's ratio of rate to batch size: a small surrogate swings too much with a higher one.
    query_training=Training(
        epochs=15, batch_size=64, learning_rate=0.025, nesterov=True, weight_decay=2e-4
    ),
    partitions=2,
    checkpoints=5,
)

if __name__ == "__main__":
    sweep_main()
