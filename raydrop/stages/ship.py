"""From a finished trial to a file with its network, for use elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path

from raydrop.errors import ConfigError, unknown_name
from raydrop.network.saving import EXPORTS, NetworkSpec, export_network, network_of, save_network
from raydrop.store import Store, open_place, required

FORMATS = ("raydrop", *EXPORTS)
"""A file for :func:`raydrop.network.saving.load_network`, or an exported program."""

SHIPPED_FACTS = (
    "dataset",
    "method",
    "quotas",
    "keep_fraction",
    "loss",
    "seed",
    "network_sparsity",
    "macs_removed",
    "macs",
    "parameters",
    "weights",
    "network_note",
)
"""What of a trial's record goes into the file, where it is known."""


def ship(
    directory: str | Path,
    trial_id: str,
    out: str | Path,
    format: str = "raydrop",  # noqa: A002 - what the field calls it
    trust: Collection[str] = (),
) -> NetworkSpec:
    """Write the pruned network of a trial to a file, and return what that says of it.

    Args:
        directory: Output folder of ``raydrop run``.
        trial_id: Of a trial that pruned a network, or the beginning of its id alone.
        out: File to write; one that is there is replaced.
        format: One of :data:`FORMATS`.
        trust: Packages whose models may be imported, as ``mypkg`` in ``mypkg.net:SignNet``: whoever
            wrote the folder may have named any code.

    Raises:
        ConfigError: If there is no such format, folder or trial, several trials begin so, the trial
            left no network, or its model is of a package that is not trusted.
        NetworkError: If this version cannot build or export the network, or write the file.
        StoreError: If what the trial left cannot be read.
    """
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    store = Store(open_place(directory))
    trial, key = _network_key(store, trial_id)
    model, spec = network_of(required(store, "network", key), trust)
    record = store.read("trial", trial)
    known = {} if record is None else {**record.config, **record.info}
    facts = {name: known[name] for name in SHIPPED_FACTS if known.get(name) is not None}
    spec = dataclasses.replace(spec, facts={**spec.facts, "trial_id": trial, **facts})
    if format == "raydrop":
        save_network(out, spec, model)
    else:
        export_network(out, model, spec.input_spec, format, spec)
    return spec


def _network_key(store: Store, beginning: str) -> tuple[str, str]:
    """Return the id of the one trial that begins so, and the key of the network that it left."""
    trials = store.keys("trial")
    networks = dict[str, str]()
    for key in store.keys("network"):
        entry = store.peek("network", key)
        if entry is not None:
            networks[str(entry.config.get("trial", ""))] = key
    matching = [trial for trial in networks if beginning and trial.startswith(beginning)]
    if len(matching) == 1:
        return matching[0], networks[matching[0]]
    if matching:
        raise ConfigError(
            f"Expected the beginning of one trial's id, found {beginning!r}, with which "
            f"{len(matching)} begin ({', '.join(sorted(matching)[:3])}); write more of it."
        )
    raise ConfigError(_absent(store, beginning, trials, sorted(networks)))


def _absent(store: Store, beginning: str, trials: list[str], networks: list[str]) -> str:
    """Return the sentence for a trial without a network."""
    if not trials and not networks:
        return (
            f"Expected finished trials in {store.place.called()}, found none; give the output "
            "folder of raydrop run."
        )
    if beginning and any(trial.startswith(beginning) for trial in trials):
        return (
            f"Expected a trial that pruned a network, found that {beginning} left none; choose one "
            "whose network_method is not none (see trials.parquet)."
        )
    return (
        f"Expected the id of a trial in {store.place.called()}, found {beginning!r}, with "
        "which none begins; take one from the column trial_id of trials.parquet"
        f"{f', such as {networks[0]}' if networks else ''}."
    )
