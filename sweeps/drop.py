"""DRoP with the settings of its paper: do quotas keep the worst class, or group, safe?

Vysogorets, Ahuja, Kempe 2025 (arXiv 2404.05579) compare random pruning, five scores, the class
ratios of each score, and DRoP quotas, with longer training on what is pruned. ``--scale`` names one
of their data sets; without it, it is CIFAR-10:

=================  ============================================================================
``cifar100``       VGG-19. With 50 validation images per class, recalls are noisy; the paper
                   takes them as they are, and so does this study
``long_tail``      CIFAR-10 whose classes fall from 5,000 images to 50; validation and test stay
                   balanced
``tiny_imagenet``  ResNet-18 on Stanford's folder ``tiny-imagenet-200`` in ``--data-root``
``imagenet``       ResNet-50 on a folder ``imagenet`` in ``--data-root``, ``train/`` and ``val/``
``waterbirds``     quotas for its four groups of label and background, of which landbirds on
                   water and waterbirds on land are few; a ResNet-50 that was trained on
                   ImageNet, whose weights torchvision downloads. Rate, batch and decay are those
                   of Sagawa et al. 2020 (arXiv 1911.08731). A folder ``waterbirds`` in
                   ``--data-root``, with its ``metadata.csv``
``cifar10_jpeg``   half an hour on two cores: 400 images of each class, from a folder, and a small
                   network
=================  ============================================================================

Every query run serves all methods and densities; ``--dry-run`` says how many trainings that saves.
``small``, and each of the first five names with ``_small`` behind it, is the same comparison in
small, on scikit-learn's digits, for Waterbirds with coloured borders that agree with the digit's
parity in nine of ten training images: minutes on two cores::

    raydrop run sweeps/drop.py --scale waterbirds_small
"""

import dataclasses

from ray import tune

from raydrop import Study, Training, drop_comparison, drop_in_small, sweep_main

UNPRUNED = {"method": "none", "loss": tune.grid_search(["group_dro", "inverse_frequency"])}

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

cifar100 = dataclasses.replace(
    study,
    name="drop_cifar100",
    dataset="cifar100",
    model="vgg19",
    training=dataclasses.replace(study.training, weight_decay=0.0005),
)
cifar100_small = drop_in_small(cifar100)

long_tail = dataclasses.replace(study, name="drop_long_tail", dataset="cifar10+long_tail(100)")
long_tail_small = drop_in_small(long_tail, dataset="digits+long_tail(10)")

tiny_imagenet = dataclasses.replace(
    study,
    name="drop_tinyimagenet",
    dataset="tiny_imagenet:tiny-imagenet-200",
    model="resnet18",
    training=dataclasses.replace(study.training, epochs=200, batch_size=256, learning_rate=0.2),
)
tiny_imagenet_small = drop_in_small(tiny_imagenet)

imagenet = dataclasses.replace(
    study,
    name="drop_imagenet",
    dataset="imagenet:imagenet",
    model="resnet50",
    training=dataclasses.replace(
        study.training,
        epochs=90,
        batch_size=512,
        learning_rate=0.4,
        milestones=(1 / 3, 2 / 3, 8 / 9),
    ),
)
imagenet_small = drop_in_small(imagenet)

waterbirds = dataclasses.replace(
    study,
    name="drop_waterbirds",
    dataset="waterbirds:waterbirds",
    model="resnet50:imagenet",
    by="group",
    param_space=[*drop_comparison((0.1, 0.3, 0.5, 0.7, 0.9)), UNPRUNED],
    training=Training(
        epochs=100, batch_size=128, learning_rate=1e-3, weight_decay=1e-4, schedule="constant"
    ),
)
waterbirds_small = drop_in_small(
    waterbirds,
    dataset="digits+spurious(0.9)",
    param_space=[*drop_comparison((0.3, 0.8), scores=("el2n",)), UNPRUNED],
    training=Training(epochs=15, batch_size=16, learning_rate=0.1, weight_decay=5e-4),
    minimum_per_class=2,
)

if __name__ == "__main__":
    sweep_main()
