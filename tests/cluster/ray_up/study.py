"""The small study that is submitted to a cluster, with code that only its driver finds."""

import sys
from pathlib import Path

from ray import tune

from raydrop import Study, Training

sys.path.append(str(Path(__file__).parent / "own"))
study = Study(
    name="small",
    dataset="digits+subset(12, test=6)",
    model="own_code:net",
    train="own_code:fit",
    param_space={
        "method": tune.grid_search(["random", "el2n"]),
        "keep_fraction": tune.grid_search([0.5, 0.8]),
    },
    seeds=(0,),
    training=Training(epochs=2),
)
