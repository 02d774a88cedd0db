"""DRoP on CIFAR-10 with the settings of its paper: do quotas keep the worst class safe?

Vysogorets, Ahuja, Kempe 2025 (arXiv 2404.05579) train VGG-16 for 160 epochs, longer on what is
pruned, and compare random pruning, five scores, the class ratios of each score, and DRoP quotas.

Every query run serves all methods and densities; ``--dry-run`` says how many trainings that saves.
``--scale small`` is the same comparison in small, on scikit-learn's digits: minutes on two cores::

    raydrop run sweeps/drop_cifar10.py --scale small
"""

import dataclasses

from raydrop import Study, Training, drop_comparison, drop_in_small, sweep_main

study = Study(
    name="drop_cifar10",
    dataset="cifar10",
    model="vgg16",
    param_space=drop_comparison(),
    budget="drop_paper",
    training=Training(
        epochs=160,
        batch_size=128,
        learning_rate=0.1,
        weight_decay=0.0001,
        schedule="step",
        milestones=(0.5, 0.75),
        decay=0.2,
    ),
    # EL2N and GraNd: a tenth of the training, averaged over five initialisations.
    initialisations=5,
    score_epoch_fraction=0.1,
)

small = drop_in_small(study)

cifar10_jpeg = dataclasses.replace(
    study,
    name="drop_cifar10_jpeg",
    dataset="imagefolder:cifar10-jpeg?flip=on+subset(400, test=500)",
    model="small_cnn",
    param_space=drop_comparison((0.3, 0.5)),
    training=dataclasses.replace(study.training, epochs=12, batch_size=32),
)
"""Half an hour on two cores: 400 images of each class, from a folder, and a small network."""

if __name__ == "__main__":
    sweep_main()
