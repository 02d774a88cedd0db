"""The embedded default: which pruning of long-tailed digits keeps the worst digit safe?

Five scores, each without and with DRoP quotas, at four keep fractions, with two losses and three
seeds, on scikit-learn's real images of handwritten digits, ten times as many zeros as nines.

Run it with ``python sweeps/digits.py`` or ``raydrop run sweeps/digits.py``.
"""

from ray import tune

from raydrop import Study, Training, sweep_main

study = Study(
    name="digits",
    dataset="digits+long_tail(10)",
    model="small_cnn",
    param_space={
        "method": tune.grid_search(["random", "el2n", "forgetting", "grand", "moso"]),
        "quotas": tune.grid_search(["none", "drop"]),
        "keep_fraction": tune.grid_search([0.2, 0.35, 0.5, 0.8]),
        "loss": tune.grid_search(["cross_entropy", "cdb_w"]),
    },
    seeds=(0, 1, 2),
    budget="equal_steps",
    training=Training(epochs=25, batch_size=16, learning_rate=0.1, weight_decay=5e-4),
    # 24 validation images per class are often all right, which would leave a class nothing.
    recall_smoothing=1.0,
    minimum_per_class=4,
)

if __name__ == "__main__":
    sweep_main()
