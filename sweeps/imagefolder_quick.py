"""A first look at your own images: does pruning them cost the worst class, and do quotas help?

A folder with ``train/CLASS/...`` and ``test/CLASS/...`` (and ``val/CLASS/...`` if you have one) is
all it takes. A few epochs on at most 200 training images of each class show the direction within
minutes; take ``subset`` away and raise ``epochs`` for numbers to rely on::

    raydrop run sweeps/imagefolder_quick.py --data 'imagefolder:PATH+subset(200, test=100)'
"""

from ray import tune

from raydrop import Study, Training, sweep_main

study = Study(
    name="imagefolder_quick",
    dataset="imagefolder:images+subset(200, test=100)",
    model="small_cnn",
    param_space={
        "method": tune.grid_search(["random", "el2n"]),
        "quotas": tune.grid_search(["none", "drop"]),
        "keep_fraction": tune.grid_search([0.2, 0.5]),
    },
    seeds=(0, 1),
    budget="equal_steps",
    training=Training(epochs=5, batch_size=64, learning_rate=0.1, weight_decay=5e-4),
    recall_smoothing=1.0,
)

if __name__ == "__main__":
    sweep_main()
