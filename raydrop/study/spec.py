"""What is to be studied: frozen, validated specifications.

A :class:`Study` says which data, model, search space and seeds; a :class:`TrialConfig` is one cell
of it. Both are plain values: the same ones give the same hash, and therefore the same results, on
any machine. Nothing here imports Ray or torch.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raydrop.errors import ConfigError, unknown_name, visible
from raydrop.study.catalogue import Brought, bring, same_source
from raydrop.study.checks import (
    between,
    conform,
    each_of,
    flag,
    instance_of,
    number,
    plain,
    setting,
    text,
    whole,
)
from raydrop.study.identity import SCHEMA, canonical_json
from raydrop.study.importing import refuse_paths

By = Literal["class", "group"]
"""What quotas, loss weights and worst cases are about: classes, or the groups that data carry."""
Budget = Literal["equal_epochs", "equal_steps", "drop_paper"]
Schedule = Literal["constant", "cosine", "step"]
Precision = Literal["auto", "fp32", "bf16"]
ScoringPrecision = Literal["fp32", "bf16"]

TRIAL_AXES = (
    "method",
    "quotas",
    "keep_fraction",
    "prune_fraction",
    "loss",
    "model",
    "query_model",
    "network_method",
    "network_target",
)
"""Keys that a ``param_space`` may hold."""
_KINDS = {
    "dataset": "data set",
    "method": "method",
    "quotas": "quotas",
    "loss": "loss",
    "dense_loss": "loss",
    "model": "model",
    "query_model": "model",
    "network_method": "network_method",
    "train": "training function",
}
"""Of what fields and axes name, which may be objects as well."""


AUGMENTATIONS = ("randaugment", "trivialaugment", "autoaugment", "augmix")
"""Policies of torchvision for images, each after shifts and flips."""


def _optimizer(name: str, value: Any) -> str:
    if ":" not in text(name, value) and value not in ("sgd", "adamw"):
        raise unknown_name(name, value, ("sgd", "adamw"))
    return str(value)


def _augmentation(name: str, value: Any) -> bool | str:
    if isinstance(value, str) and value not in AUGMENTATIONS:
        raise unknown_name(f"word for {name}", value, AUGMENTATIONS)
    return value if isinstance(value, str) else flag(name, value)


_SHARE, _SIZE, _COUNT = between(0.0, 1.0), between(0.0, math.inf), whole(1)
_SHARES = each_of(_SHARE)


@dataclass(frozen=True)
class Training:
    """How every network of a study is trained."""

    epochs: int = setting(_COUNT, 30)
    """Passes over the full training set; the budget rule says how many for a pruned one."""
    batch_size: int = setting(_COUNT, 32)
    """Samples per step."""
    optimizer: str = setting(_optimizer, "sgd")
    """``sgd`` (with momentum), ``adamw``, or an import path with its own arguments, such as
    ``torch.optim:RMSprop(alpha=0.9)``, which is given learning rate and weight decay."""
    learning_rate: float = setting(_SIZE, 0.1)
    """At the start, or after the warm-up."""
    momentum: float = setting(_SHARE, 0.9)
    """For ``sgd``."""
    nesterov: bool = setting(flag, False)
    """For ``sgd``."""
    weight_decay: float = setting(_SIZE, 5e-4)
    """On all parameters."""
    schedule: Schedule = setting(Schedule, "cosine")
    """How the learning rate falls: ``constant``, ``cosine`` to zero, or ``step``."""
    milestones: tuple[float, ...] = setting(_SHARES, (0.5, 0.75))
    """For ``step``: fractions of the run at which the rate is multiplied by :attr:`decay`."""
    decay: float = setting(_SHARE, 0.2)
    """For ``step``."""
    warmup: float = setting(_SHARE, 0.0)
    """Fraction of the run in which the rate rises linearly from zero."""
    gradient_clip: float | None = setting(_SIZE, None)
    """Largest norm of the whole gradient, or None."""
    precision: Precision = setting(Precision, "auto")
    """``bf16`` autocast, ``fp32``, or ``auto``: bf16 on a GPU and fp32 elsewhere."""
    augment: bool | str = setting(_augmentation, True)
    """Whether images are augmented by shifts and flips, or which of :data:`AUGMENTATIONS` they go
    through besides. Query runs follow it only in ``Study.query_training``; those that train as the
    study's trials do are never augmented (DRoP, arXiv 2404.05579)."""
    label_smoothing: float = setting(_SHARE, 0.0)
    """s in (1 - s) L + s U, with the loss L and the cross-entropy U to the uniform distribution."""
    ema: float | None = setting(_SHARE, None)
    """Decay d of an exponential moving average of the weights, a <- d a + (1 - d) w after each
    step, which stands in for them wherever a network is looked at: traces, checkpoints, recalls,
    test; None for the weights themselves."""
    compile: bool = setting(flag, False)
    """Whether training steps go through ``torch.compile``, which may change their rounding."""

    def __post_init__(self) -> None:
        conform(self)

    def identity(self) -> dict[str, Any]:
        """Return the fields that enter a hash: later ones only where they say something.

        So what was trained before there were such fields is still found.
        """
        fields = dataclasses.asdict(self)
        later = {"label_smoothing": 0.0, "ema": None, "compile": False}
        return {name: value for name, value in fields.items() if later.get(name, ...) != value}


_TRAINING, _AS_USUAL = instance_of(Training, "epochs=30"), Training()


@dataclass(frozen=True)
class NetworkPruning:
    """How trained networks are pruned: the same for all methods, targets and losses of a study.

    A network trial starts from the weights of its *dense* trial, which has the same data, model and
    seed and was trained with :attr:`dense_loss`. Each round prunes towards the target by the
    trial's method and then retrains, both under the trial's loss.
    """

    rounds: int = setting(_COUNT, 1)
    """Rounds of pruning and retraining: 1 is one-shot; more reach the target in steps that each
    leave the same share of what was there before."""
    restore: bool = setting(flag, True)
    """Whether what remains gets back the weights that it had before a method that trains them on
    its way (``taylor_activation``) looked for what to remove."""
    retraining: Training | None = setting(_TRAINING, None)
    """How each round retrains; None is as the study trains, at a tenth of its learning rate."""
    dense_loss: str = setting(text, "cross_entropy")
    """Loss that dense networks are trained with."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dense_loss", _text_of("dense_loss", self.dense_loss, {}))
        conform(self)

    def identity(self) -> dict[str, Any]:
        """Return the fields that enter a hash, as :meth:`Training.identity` does."""
        retraining = self.retraining and self.retraining.identity()
        return dataclasses.asdict(self) | {"retraining": retraining}


def _keep_fraction(name: str, value: Any) -> float:
    # Rounded, so that 1 - 0.7 and 0.1 + 0.2 are the same trial as 0.3.
    fraction = round(number(name, value), 12)
    if not 0.0 < fraction <= 1.0:
        raise ConfigError(
            f"Expected keep_fraction in (0, 1], found {value}; "
            "it is the share of the training set that remains."
        )
    return fraction


def _kept_after(prune_fraction: Any) -> float:
    fraction = number("prune_fraction", prune_fraction)
    if not 0.0 <= fraction < 1.0:
        raise ConfigError(
            f"Expected prune_fraction in [0, 1), found {prune_fraction}; "
            "it is the share of the training set that goes."
        )
    return 1.0 - fraction


@dataclass(frozen=True, order=True)
class TrialConfig:
    """One cell of a sweep, resolved: what is kept, how it is trained, and with which seed.

    A run that keeps everything is the same run whatever the method is called, so it is always
    ``method="none", quotas="none", keep_fraction=1.0``, and its query model is its own model.
    Likewise a network of which nothing goes is dense: ``network_method="none"`` and
    ``network_target="none"``.
    """

    method: str
    """Score that ranks samples, or ``none``."""
    quotas: str
    """Rule that shares the budget among classes or groups, or ``none``."""
    keep_fraction: float
    """Share of the training set that remains, in (0, 1]."""
    loss: str
    """Loss of the final training, with its parameters, such as ``focal(2)``."""
    model: str
    """Architecture of the final training, the target."""
    query_model: str
    """Architecture of the query run that scores and recalls come from; the target's own, where
    neither is read (:func:`raydrop.plan.trial_configs` sees to that)."""
    seed: int
    """Seed of the query run, the pruning draw and the training."""
    network_method: str = "none"
    """How the trained network is pruned, with its parameters, or ``none``."""
    network_target: str = "none"
    """How much of the network goes, such as ``flops(0.75)``, or ``none``."""

    def __post_init__(self) -> None:
        conform(self, keep_fraction=_keep_fraction, seed=whole(0))
        if self.method == "none" and self.keep_fraction < 1.0:
            raise ConfigError(
                "Expected keep_fraction 1.0 with method 'none', which keeps everything, found "
                f"{self.keep_fraction}; name a method such as 'random'."
            )
        same: dict[str, str] = {}
        if self.keep_fraction == 1.0:
            same |= {"method": "none", "quotas": "none", "query_model": self.model}
        if "none" in (self.network_method, self.network_target):
            same |= {"network_method": "none", "network_target": "none"}
        self.__dict__.update(same)

    @classmethod
    def from_space(
        cls, point: Mapping[str, Any], seed: int, model: str, query_model: str | None = None
    ) -> TrialConfig:
        """Build the trial that one point of a search space describes.

        What the point leaves out is ``none``, ``cross_entropy``, 1.0, or the model and the query
        model that are given; without the latter, the trial's own model.
        """
        point = {key: _text_of(key, value, {}) for key, value in point.items()}
        point, model, query_model = plain((point, model, query_model))
        for key, value in point.items():
            if key not in TRIAL_AXES:
                raise unknown_name("key of param_space", key, TRIAL_AXES)
            if isinstance(value, list | tuple):
                raise ConfigError(
                    f"Expected a value or a grid for {key} in param_space, found a list; write "
                    f'{{"grid_search": {[*value]}}}.'
                )
        if {"keep_fraction", "prune_fraction"} <= point.keys():
            raise ConfigError(
                "Expected keep_fraction or prune_fraction in param_space, found both; remove one."
            )
        if "prune_fraction" in point:
            keep = _kept_after(point["prune_fraction"])
        else:
            keep = number("keep_fraction", point.get("keep_fraction", 1.0))
        model = text("model", point.get("model", model))
        source = text("query_model", point.get("query_model", query_model or model))
        pruner = str(point.get("network_method", "none"))
        if pruner != "none" and "network_target" not in point:
            raise ConfigError(
                f"Expected a network_target beside network_method {pruner!r}, found none; add for "
                'example "network_target": 0.5.'
            )
        return cls(
            method=str(point.get("method", "none")),
            quotas=str(point.get("quotas", "none")),
            keep_fraction=keep,
            loss=str(point.get("loss", "cross_entropy")),
            model=model,
            query_model=source,
            seed=seed,
            network_method=pruner,
            network_target=str(point.get("network_target", "none")),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return dataclasses.asdict(self)

    def identity(self) -> dict[str, Any]:
        """Return the fields that enter a trial's hash: those of networks where one is pruned.

        So trials that were finished before networks could be pruned are still found.
        """
        fields = self.as_dict()
        if self.network_method == "none":
            del fields["network_method"], fields["network_target"]
        return fields


_NETWORK = instance_of(NetworkPruning, "rounds=2")


def _word(name: str, value: Any) -> str:
    return "" if value == "" else str(text(name, value))


def _text_of(key: str, value: Any, known: dict[str, Any], kind: str = "") -> Any:
    """Return a value of a field or an axis with a name in place of each object of the user's own.

    Those of a study that are not the same have names of their own; ``known`` has them.
    """
    kind = kind or _KINDS.get(key, "")
    within = functools.partial(_text_of, key, known=known, kind=kind)
    if key == "param_space" and isinstance(value, Mapping):
        return {axis: _text_of(axis, each, known) for axis, each in value.items()}
    if isinstance(value, Mapping):
        return {name: within(each) for name, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(within, value))
    if type(value).__module__.startswith("ray.tune"):
        if isinstance(getattr(value, "categories", None), list | tuple):
            value = copy.copy(value)
            value.categories = within(value.categories)
        return value
    plain_kind = type(value).__module__ in ("numpy", "torch")  # numbers and texts of these
    if not kind or value is None or plain_kind or isinstance(value, int | float):
        return value
    name = bring(kind, value)
    if isinstance(value, str):
        return name
    other = known.setdefault(f"{kind} {name}", value)
    if other is not value and not same_source(other, value):
        raise ConfigError(
            f"Expected things of one study to have names of their own, found two of the kind {kind}"
            f" called {name}; give classes and functions different names, or arguments to one."
        )
    return name


def _folder_name(name: str, value: Any) -> str:
    if {"/", "\\", "\0"} & set(text(name, value)) or value in (".", ".."):
        raise ConfigError(
            f"Expected a study name that can be a folder's, found {value!r}; rename it."
        )
    return str(value)


def _search_spaces(_name: str, value: Any) -> Any:
    if isinstance(value, str) or not isinstance(value, Mapping | Sequence):
        raise ConfigError(
            f"Expected param_space to be a dict or a list of dicts, found {type(value).__name__}; "
            'write for example {"method": tune.grid_search(["random", "el2n"])}.'
        )
    if not isinstance(value, Mapping) and not all(isinstance(each, Mapping) for each in value):
        raise ConfigError(
            "Expected a dict or a list of dicts for param_space, found a list of something "
            "else; write each search space as a dict."
        )
    return value


def _data_text(name: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        raise ConfigError(
            f"Expected one data set for {name}, found a {type(value).__name__} of {len(value)}; "
            "make one of them, as by raydrop.data.from_torch(train, test)."
        )
    return text(name, value)


def _distinct(name: str, value: Any) -> tuple[int, ...]:
    seeds: tuple[int, ...] = each_of(whole(0))(name, value)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"Expected distinct seeds, found {seeds}; list each one once.")
    return seeds


@dataclass(frozen=True)
class Study:
    """Everything that determines a sweep's results, except the data themselves.

    Example:
        >>> study = Study(
        ...     name="tiny", dataset="digits", model="small_cnn",
        ...     param_space={"method": "random", "keep_fraction": {"grid_search": [0.2, 0.5]}},
        ... )
        >>> study.seeds
        (0, 1, 2)

        What is your own is given as it is, or named by where Python finds it. What can be imported
        is the same either way:

        >>> from torch import nn
        >>> losses = ["focal(2)", "torch.nn:CrossEntropyLoss(label_smoothing=0.1)"]
        >>> study = Study(
        ...     name="own", dataset="digits", model="small_cnn",
        ...     param_space={"loss": {"grid_search": [*losses, nn.CrossEntropyLoss]}},
        ... )
        >>> study.spaces()[0]["loss"]["grid_search"][2]
        'torch.nn.modules.loss:CrossEntropyLoss'
    """

    name: str
    """What the study is called; the default output folder is ``results/NAME``."""
    dataset: str
    """Data set and variants, such as ``digits+long_tail(10)``; or data, which :mod:`raydrop.data`
    makes of what people have."""
    model: str
    """Architecture, such as ``small_cnn``, where ``param_space`` names none; or one of your own, as
    ``mypkg.net:SignNet(width=32)``, or as a class, a function that makes one, or an instance, whose
    weights are drawn anew for each seed."""
    param_space: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    """A plain Tune search space over ``method``, ``quotas``, ``keep_fraction`` (or
    ``prune_fraction``), ``loss``, ``model``, ``query_model``, ``network_method`` and
    ``network_target``; or several, whose points are joined. Its methods, quotas, losses, models and
    pruners may be your own too, by import paths or as objects."""
    seeds: tuple[int, ...] = setting(_distinct, (0, 1, 2))
    """One repetition of everything per seed."""
    budget: Budget = setting(Budget, "equal_epochs")
    """How long a pruned set is trained: the same number of epochs, the same number of steps, or
    int((0.5 + 0.5 d) E / d) epochs at density d as in DRoP."""
    by: By = setting(By, "class")
    """Whose quotas, minimum, weights in losses and validation recalls these are: those of the
    classes, or of the groups that the data carry. Query runs and scores depend on neither."""
    training: Training = setting(_TRAINING, _AS_USUAL)
    """How networks are trained."""
    train: Any = setting(text, None)
    """A training function of one's own, by import path such as ``mypkg.train:fit`` or as it is:
    :class:`raydrop.stages.task.Task` says what it gets and returns. None is raydrop's own loop."""
    query_model: str | None = setting(text, None)
    """Architecture that scores and validation recalls come from, where ``param_space`` names none;
    None is each trial's own."""
    query_training: Training | None = setting(_TRAINING, None)
    """How query runs are trained, surrogates and further initialisations included. None is like
    :attr:`training`, but without augmentation; given, its own ``augment`` is obeyed."""
    minimum_per_class: int = setting(whole(0), 0)
    """Samples that a quota rule leaves every class (or group, as :attr:`by` says) at least; without
    quotas there is no minimum."""
    recall_smoothing: float = setting(_SIZE, 0.0)
    """Validation samples of each outcome added to every class or group before quotas read its
    recall: r = (correct + a) / (n + 2 a). With 1 (add-one), a class whose few validation samples
    all happen to be right still keeps something."""
    checkpoints: int = setting(_COUNT, 10)
    """Checkpoints of a query run at which ``moso`` and others of its kind look, each drawn at
    random from its own stretch of the run (:func:`raydrop.training.checkpoints.sampled_epochs`)."""
    score_epoch_fraction: float = setting(_SHARE, 0.1)
    """Point of the query run at which ``el2n`` and ``grand`` look, as a fraction of its epochs."""
    initialisations: int = setting(_COUNT, 1)
    """Query runs of different initial weights and order over which ``el2n`` and ``grand``
    average; all but the first stop after the epoch at which these look."""
    partitions: int = setting(_COUNT, 1)
    """I, the parts that ``moso`` cuts the training set into, to score each of them by a surrogate
    trained on that part alone; with 1, the query run itself is the surrogate."""
    score_precision: ScoringPrecision = setting(ScoringPrecision, "fp32")
    """Precision of the passes that per-sample gradients take; sums are always in fp32 or better."""
    network: NetworkPruning | None = setting(_NETWORK, None)
    """How networks are pruned, where ``param_space`` asks for it; None is
    ``NetworkPruning()``."""
    include_unpruned: bool = setting(flag, True)
    """Whether to train on all the data too, for reference, once per model, loss and seed."""
    num_samples: int = setting(_COUNT, 1)
    """Draws from distributions in ``param_space``, as in ``TuneConfig``."""
    version: str = ""
    """A word that stands for the source of all that is not raydrop's own: who changes it says that
    their code gives other results, and who keeps it that it gives the same."""

    def __post_init__(self) -> None:
        known: dict[str, Any] = {}
        for field in ("dataset", "model", "query_model", "param_space", "train"):
            object.__setattr__(self, field, _text_of(field, getattr(self, field), known))
        texts = {"dataset": _data_text, "model": text, "version": _word, "name": _folder_name}
        conform(self, **texts, param_space=_search_spaces)

    def __getstate__(self) -> dict[str, Any]:
        # A study takes what scripts have added along, to every process that works on it; what it
        # could not name, such as what holds a lock, might not be fit to travel.
        return {**self.__dict__, "": Brought.here(hashed=not self.version)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: value for name, value in state.items() if name})

    def spaces(self) -> tuple[Mapping[str, Any], ...]:
        """Return the search spaces as a tuple, also where there is just one."""
        if isinstance(self.param_space, Mapping):
            return (self.param_space,)
        return tuple(self.param_space)

    def training_of_queries(self) -> Training:
        """Return how query runs are trained: as asked for, or like trials without augmentation."""
        return self.query_training or dataclasses.replace(self.training, augment=False)

    def pruning_of_networks(self) -> NetworkPruning:
        """Return how networks are pruned, with all that is left open in :attr:`network` decided."""
        found = self.network or NetworkPruning()
        if found.retraining is not None:
            return found
        rate = self.training.learning_rate / 10
        gentler = dataclasses.replace(self.training, learning_rate=rate)
        return dataclasses.replace(found, retraining=gentler)

    def run(
        self,
        out: str | Path | None = None,
        *,
        address: str | None = None,
        num_cpus: int | None = None,
        gpus_per_worker: float | None = None,
        data_root: str | None = None,
        log: str | None = None,
        progress: bool = True,
    ) -> Any:
        """Run the study from a script or a notebook; the same call again does what is missing.

        A Ray that is initialised is used and left as it is; otherwise one is started and ended.
        Trials that fail raise nothing: they are said, and are in the results' ``failed``.

        Args:
            out: Output folder, or the URL of one; ``results/NAME`` by default.
            address: Address of a Ray cluster; this machine by default.
            num_cpus: CPUs of a Ray that is started here; all by default.
            gpus_per_worker: Share of a GPU for each worker; 0 uses none.
            data_root: Folder of data sets, also for downloads; ``~/.cache/raydrop`` by default.
            log: Where to log the front as it grows: ``tensorboard``, ``mlflow`` or ``wandb``.
            progress: Whether to say what is planned, under way, and missing in the end: with a bar
                in a terminal, and by a line now and then in a notebook or a file.

        Returns:
            What the study left, finished or not, as :class:`raydrop.Results`.

        Raises:
            RaydropError: If something does not fit, before anything is run.

        Example:
            >>> study = Study(
            ...     name="tiny", dataset="digits", model="small_cnn",
            ...     param_space={"method": "random", "keep_fraction": 0.3},
            ... )
            >>> study.run(out="results/tiny").frontier  # doctest: +SKIP
        """
        # The one way up: nothing of a study needs Ray until somebody asks for this.
        import raydrop

        run: Callable[..., Any] = raydrop.run
        return run(
            self,
            out,
            address=address,
            num_cpus=num_cpus,
            gpus_per_worker=gpus_per_worker,
            data_root=data_root,
            log=log,
            progress=progress,
        )

    def base(self, data_fingerprint: str) -> dict[str, Any]:
        """Return what all results of this study share: their common part of every identity.

        The name, the seeds, the models, the search space and how networks are pruned are absent,
        since a study may grow by them and keep what it has. The values are plain JSON, so they
        equal what is read back from a file.
        """
        base = {name: getattr(self, name) for name in _SHARED}
        base |= {"schema": SCHEMA, "data": data_fingerprint}
        base["training"] = self.training.identity()
        base["query_training"] = self.training_of_queries().identity()
        base |= {} if self.train is None else {"train": self.train}
        return json.loads(canonical_json(base))  # type: ignore[no-any-return]

    def to_dict(self, points: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the study as JSON values, its search space spelled out as points."""
        spelled = dataclasses.replace(self, param_space=[dict(point) for point in points])
        fields = dataclasses.asdict(spelled)
        for name, default in (("version", ""), ("train", None)):
            if fields[name] == default:
                del fields[name]
        return json.loads(json.dumps(fields))  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], trust: Collection[str] = ()) -> Study:
        """Rebuild a study from :meth:`to_dict`.

        Its search space is spelled out, so there is nothing to resolve or to draw: its points are
        taken as they are, once. Nothing that it names is imported, unless it is of a package that
        is trusted, such as ``mypkg``: whoever wrote the study may have named any code.

        Raises:
            ConfigError: If a field is unknown or absent, a point holds more than plain values, or a
                name is an import path of a package that is not trusted.
        """
        if isinstance(values, Mapping):
            refuse_paths({**values, "name": "", "version": ""}, trust, "a stored study")
        fields = _rebuilt("field of a study", values, cls)
        _check_points(fields.get("param_space"))
        try:
            return cls(**fields | {"num_samples": 1})
        except TypeError as error:
            raise ConfigError(
                f"Expected the fields of a study, found a problem ({error}); "
                "use a study.json that this version of raydrop wrote."
            ) from error


_NESTED = {
    "training": Training,
    "query_training": Training,
    "retraining": Training,
    "network": NetworkPruning,
}
"""Fields whose values are specifications, too."""
_SHARED = (
    "budget",
    "by",
    "minimum_per_class",
    "recall_smoothing",
    "checkpoints",
    "score_epoch_fraction",
    "initialisations",
    "partitions",
    "score_precision",
)
"""Fields that all results of a study depend on as they are."""


def _rebuilt(kind: str, values: Any, owner: type[Any]) -> dict[str, Any]:
    """Return the fields of a specification, of which JSON values are given."""
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"Expected a dict for the {kind}, found {values!r}; "
            "use a study.json that this version of raydrop wrote."
        )
    known, fields = [each.name for each in dataclasses.fields(owner)], dict(values)
    for name, value in values.items():
        if name not in known:
            raise unknown_name(kind, name, known)
        nested = _NESTED.get(name)
        if nested is not None and value is not None:
            fields[name] = nested(**_rebuilt(f"field of {name}", value, nested))
    return fields


def _check_points(space: Any) -> None:
    """Refuse a stored search space that is more than points: what others wrote is not resolved."""
    points = [space] if isinstance(space, dict) else space
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise ConfigError(
            "Expected a list of points for the param_space of a stored study, found "
            f"{type(space).__name__}; use a study.json that raydrop wrote."
        )
    for key, value in ((key, value) for point in points for key, value in point.items()):
        if not isinstance(value, str | int | float | None):
            raise ConfigError(
                f"Expected a text, a number or nothing for {visible(key)} in the param_space of a "
                f"stored study, found a {type(value).__name__}; write a search space as a script."
            )
