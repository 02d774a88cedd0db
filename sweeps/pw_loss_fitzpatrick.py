"""Pruned networks on photos of skin: trained on light skin, how do they fare on dark skin?

Meyer and Wong 2022 (arXiv 2211.10285) train ResNet-34 on the three classes of Fitzpatrick17k (Groh
et al. 2021, arXiv 2104.09957) and skin types 1 and 2, prune it by AutoBot and by Taylor scores of
filters with cross-entropy and with the performance weighted loss, and test it on types 3-4 and
5-6. Theta and gamma, rate, batch and epochs of retraining are theirs; dense networks are trained
as pruned ones are retrained. A tenth of the types 1 and 2 is tested on, too.

The data are the folder ``fitzpatrick17k`` in ``--data-root``, with the authors'
``fitzpatrick17k.csv`` and the images that it lists as ``images/MD5HASH.jpg``. ``--scale small`` is
the comparison in small, on scikit-learn's digits with coloured borders, nineteen of twenty of which
agree with the digit's parity in training: minutes on two cores::

    raydrop run sweeps/pw_loss_fitzpatrick.py --scale small
"""

import dataclasses

from ray import tune

from raydrop import NetworkPruning, Study, Training, sweep_main

TARGETS = tune.grid_search([0.5, 0.75, 0.875, 0.9375, 0.96875])
RETRAINING = Training(
    epochs=30, batch_size=64, optimizer="adamw", learning_rate=1e-4, weight_decay=0.01
)

study = Study(
    name="pw_loss_fitzpatrick",
    dataset="fitzpatrick17k:fitzpatrick17k",
    model="resnet34",
    by="group",
    param_space=[
        {
            "network_method": tune.grid_search(["random", "autobot"]),
            "network_target": TARGETS,
            "loss": tune.grid_search(["cross_entropy", "pw(0.8, 2.5)"]),
        },
        {
            "network_method": "taylor_activation",
            "network_target": TARGETS,
            "loss": tune.grid_search(["cross_entropy", "pw(0.95, 3)"]),
        },
    ],
    training=RETRAINING,
    network=NetworkPruning(retraining=RETRAINING),
)

small = dataclasses.replace(
    study,
    name="pw_loss_fitzpatrick_small",
    dataset="digits+spurious(0.95)",
    model="small_cnn",
    param_space={
        "network_method": tune.grid_search(["autobot", "taylor_activation"]),
        "network_target": tune.grid_search([0.5, 0.75]),
        "loss": tune.grid_search(["cross_entropy", "pw(0.8, 2.5)"]),
    },
    training=Training(epochs=15, batch_size=16, learning_rate=0.1),
    network=NetworkPruning(
        retraining=Training(epochs=10, batch_size=16, optimizer="adamw", learning_rate=3e-3)
    ),
)

if __name__ == "__main__":
    sweep_main()
