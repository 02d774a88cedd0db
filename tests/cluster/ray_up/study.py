"""The small study that is submitted to a cluster."""

from ray import tune

from raydrop import Study, Training

study = Study(
    name="small",
    dataset="digits+subset(12, test=6)",
    model="small_cnn",
    param_space={
        "method": tune.grid_search(["random", "el2n"]),
        "keep_fraction": tune.grid_search([0.5, 0.8]),
    },
    seeds=(0,),
    training=Training(epochs=2),
)
