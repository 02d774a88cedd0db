"""Data and network pruned together: which costs the worst class more, and what protects it?

Keep fraction of the training set x share of the network that goes x loss, on one grid: every
selection of data is trained once, dense, and that network is then pruned to every target under
every loss. The frontier has a panel for each target. The performance weighted loss is that of
Meyer and Wong 2022 (arXiv 2211.10285), quotas are DRoP's (Vysogorets, Ahuja, Kempe 2025, arXiv
2404.05579).

``--scale small`` is the same grid in small, on scikit-learn's digits: minutes on two cores::

    raydrop run sweeps/data_and_network.py --scale small
"""

import dataclasses

from ray import tune

from raydrop import NetworkPruning, Study, Training, sweep_main

study = Study(
    name="data_and_network",
    dataset="cifar10",
    model="resnet56",
    param_space={
        "method": tune.grid_search(["random", "el2n"]),
        "quotas": tune.grid_search(["none", "drop"]),
        "keep_fraction": tune.grid_search([0.3, 0.5, 0.8, 1.0]),
        "network_method": tune.grid_search(["random", "magnitude", "autobot"]),
        "network_target": tune.grid_search(["none", 0.5, 0.75, 0.875, 0.9375]),
        "loss": tune.grid_search(["cross_entropy", "pw(0.5, 1)", "cdb_w"]),
    },
    training=Training(epochs=160, batch_size=128, learning_rate=0.1, weight_decay=0.0001),
    network=NetworkPruning(
        retraining=Training(
            epochs=40, batch_size=256, optimizer="adamw", learning_rate=0.001, weight_decay=0.0001
        )
    ),
)

small = dataclasses.replace(
    study,
    name="data_and_network_small",
    dataset="digits+long_tail(10)",
    model="small_cnn",
    param_space={
        "method": "random",
        "quotas": tune.grid_search(["none", "drop"]),
        "keep_fraction": tune.grid_search([0.3, 0.6, 1.0]),
        "network_method": tune.grid_search(["random", "magnitude"]),
        "network_target": tune.grid_search(["none", 0.5, 0.75, 0.9]),
        "loss": tune.grid_search(["cross_entropy", "pw(0.5, 1)"]),
    },
    budget="equal_steps",
    training=Training(epochs=25, batch_size=16, learning_rate=0.1),
    network=NetworkPruning(
        retraining=Training(epochs=10, batch_size=16, learning_rate=0.02, weight_decay=5e-4)
    ),
    recall_smoothing=1.0,
    minimum_per_class=4,
)

if __name__ == "__main__":
    sweep_main()
