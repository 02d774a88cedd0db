"""Pruned networks on CelebA: is blond hair still seen on men, and which loss protects it?

Meyer and Wong 2022 (arXiv 2211.10285) prune ResNet-18 and VGG-16 to a sixteenth and down to 1/256
of their multiply-accumulates by AutoBot and by Taylor scores of filters, with cross-entropy and
with the performance weighted loss, whose parameters theta and gamma they choose per network and
method; rate, batch and epochs of retraining are theirs. Theirs differs from cross-entropy in two
ways at once, weights and corrected labels; here each is there alone, too. Masks, restored weights
and budget are the same for all. Dense networks are trained as pruned ones are retrained.

torchvision downloads the data set into ``--data-root``. ``--scale vgg16`` is their other network.
``--scale small`` is the comparison in small, on scikit-learn's digits with coloured borders that
agree with the digit's parity in nine of ten training images: minutes on two cores::

    raydrop run sweeps/pw_loss_celeba.py --scale small
"""

import dataclasses
from typing import Any

from ray import tune

from raydrop import NetworkPruning, Study, Training, sweep_main


def comparison(autobot: str, taylor: str, targets: list[float]) -> list[dict[str, Any]]:
    """Return the cells of the comparison, given theta and gamma for each method."""
    return [
        {
            "network_method": method,
            "network_target": tune.grid_search(targets),
            "loss": tune.grid_search(
                [
                    "cross_entropy",
                    f"pw({parameters})",
                    f"pw({parameters}, labels=hard)",
                    f"pw({parameters}, weights=off)",
                ]
            ),
        }
        for method, parameters in (
            ("random", autobot),
            ("autobot", autobot),
            ("taylor_activation", taylor),
        )
    ]


RETRAINING = Training(
    epochs=30, batch_size=256, optimizer="adamw", learning_rate=1e-4, weight_decay=0.01
)
TARGETS = [0.9375, 0.96875, 0.984375, 0.9921875, 0.99609375]

study = Study(
    name="pw_loss_celeba",
    dataset="celeba",
    model="resnet18",
    by="group",
    param_space=comparison("0.3, 1", "0.8, 0.5", TARGETS),
    training=RETRAINING,
    network=NetworkPruning(retraining=RETRAINING),
)

VGG_RETRAINING = dataclasses.replace(RETRAINING, epochs=10, batch_size=64, learning_rate=5e-4)

vgg16 = dataclasses.replace(
    study,
    name="pw_loss_celeba_vgg16",
    model="vgg16_bn",
    param_space=comparison("0.75, 3", "0.9, 5", TARGETS),
    training=VGG_RETRAINING,
    network=NetworkPruning(retraining=VGG_RETRAINING),
)

small = dataclasses.replace(
    study,
    name="pw_loss_celeba_small",
    dataset="digits+spurious(0.9)",
    model="small_cnn",
    param_space={
        "network_method": tune.grid_search(["random", "autobot"]),
        "network_target": tune.grid_search([0.5, 0.75]),
        "loss": tune.grid_search(["cross_entropy", "pw(0.3, 1)"]),
    },
    training=Training(epochs=15, batch_size=16, learning_rate=0.1),
    network=NetworkPruning(
        retraining=Training(epochs=10, batch_size=16, optimizer="adamw", learning_rate=3e-3)
    ),
)

if __name__ == "__main__":
    sweep_main()
