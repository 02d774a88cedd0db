"""Pruned networks on CIFAR-10: which loss protects the worst class, and a class that is rare?

Meyer and Wong 2022 (arXiv 2211.10285) prune ResNet-56 to between 3/4 and 1/16 of its
multiply-accumulates by AutoBot and by Taylor scores of filters, with cross-entropy and with the
performance weighted loss (theta 0.5, gamma 1); rate, batch and epochs of retraining are theirs.
Other ways to weight a loss are beside them. ``--scale imbalanced`` removes 80 % of the cats and
dogs from training, ``--scale shortcut`` paints a yellow square on 98 % of the dogs and 2 % of the
others in training and validation, and on half of each class in the test set.

``--scale small`` and ``--scale small_shortcut`` are the last two in small, on scikit-learn's
digits: minutes on two cores::

    raydrop run sweeps/pw_loss_cifar10.py --scale small
"""

import dataclasses

from ray import tune

from raydrop import NetworkPruning, Study, Training, sweep_main

study = Study(
    name="pw_loss_cifar10",
    dataset="cifar10",
    model="resnet56",
    param_space={
        "network_method": tune.grid_search(["random", "autobot", "taylor_activation"]),
        "network_target": tune.grid_search([0.25, 0.5, 0.75, 0.875, 0.9375]),
        "loss": tune.grid_search(["cross_entropy", "pw(0.5, 1)", "cdb_w", "focal(2)"]),
    },
    training=Training(
        epochs=200,
        batch_size=128,
        learning_rate=0.1,
        weight_decay=1e-4,
        schedule="step",
        milestones=(0.5, 0.75),
        decay=0.1,
    ),
    network=NetworkPruning(
        retraining=Training(
            epochs=200, batch_size=256, optimizer="adamw", learning_rate=1e-3, weight_decay=0.01
        )
    ),
)

imbalanced = dataclasses.replace(
    study, name="pw_loss_cifar10_imbalanced", dataset="cifar10+thinned(cat=0.2, dog=0.2)"
)

shortcut = dataclasses.replace(
    study,
    name="pw_loss_cifar10_shortcut",
    dataset="cifar10+shortcut(dog=0.98, rest=0.02)",
    by="group",
)

small = dataclasses.replace(
    study,
    name="pw_loss_cifar10_small",
    dataset="digits+thinned(3=0.2, 5=0.2)",
    model="small_cnn",
    param_space={
        "network_method": tune.grid_search(["random", "autobot", "taylor_activation"]),
        "network_target": tune.grid_search([0.5, 0.75]),
        "loss": tune.grid_search(["cross_entropy", "pw(0.5, 1)"]),
    },
    training=Training(epochs=15, batch_size=16, learning_rate=0.1),
    network=NetworkPruning(
        retraining=Training(epochs=10, batch_size=16, optimizer="adamw", learning_rate=3e-3)
    ),
)

small_shortcut = dataclasses.replace(
    small,
    name="pw_loss_cifar10_small_shortcut",
    dataset="digits+shortcut(5=0.9, rest=0.1, size=2)",
    by="group",
)

if __name__ == "__main__":
    sweep_main()
