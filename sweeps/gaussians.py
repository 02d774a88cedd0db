"""Two Gaussian classes, where theory says what DRoP does: a check of the whole study.

Class 0 is N(-1, 0.5²), class 1 is N(1, 1), equally many of both. A linear model on x and x² (see
:mod:`raydrop.data.loaders.gaussians`) learns the threshold of least average risk, and pruning moves
it. :class:`raydrop.theory.TwoGaussians` predicts, for every keep fraction unless one is named:

========================  =========  ===============  ===============  =======
                          threshold  recall, class 0  recall, class 1  average
========================  =========  ===============  ===============  =======
all data, or random          -0.170           0.9515           0.8790   0.9153
random + drop, up to 0.7     -0.390           0.8888           0.9177   0.9033
random + drop at 0.8         -0.289           0.9226           0.9012   0.9119
best for the worst class     -0.333           0.9088           0.9088   0.9088
========================  =========  ===============  ===============  =======

From 0.7 on, DRoP keeps class 1 whole. With so many test images of each class, a recall has a
standard error of about 0.003.

``raydrop theory`` draws it. Run this with ``raydrop run sweeps/gaussians.py``.
"""

from ray import tune

from raydrop import Study, Training, sweep_main

study = Study(
    name="gaussians",
    dataset="gaussians",
    model="linear",
    param_space={
        "method": "random",
        "quotas": tune.grid_search(["none", "drop"]),
        "keep_fraction": tune.grid_search([0.2, 0.5, 0.8]),
    },
    seeds=(0, 1, 2),
    budget="equal_steps",
    # Without weight decay, which would move the threshold. Near the threshold x hardly varies, so
    # the intercept is learned slowly: hence the momentum, and batches large enough to bear it.
    training=Training(
        epochs=30, batch_size=1000, learning_rate=0.2, momentum=0.95, weight_decay=0.0
    ),
    checkpoints=1,
)

if __name__ == "__main__":
    sweep_main()
