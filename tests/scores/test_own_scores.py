"""Scores of people's own models and data, without a study."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import raydrop as rd
from raydrop.data import load_dataset
from raydrop.data.batches import make_batches, prepare
from raydrop.errors import ConfigError, DataError, RaydropError, ScoringError
from raydrop.models import build_model
from raydrop.plan.runs import query_run, score_run
from raydrop.scores.base import GradientMethod, TraceMethod
from raydrop.scores.sharding import GradientWorker, LocalExecutor, ShardedGradients
from raydrop.scores.source import GradientSource
from raydrop.stages.queries import load_query, run_query
from raydrop.stages.scoring import run_score
from raydrop.store import Store
from raydrop.store.places import open_place
from raydrop.study import Study, Training
from raydrop.training.checkpoints import load_state
from raydrop.training.trace import Trace

ONE_MODEL = ["grand", "grand_last_layer", "el2n", "entropy", "k_center", "moderate", "ssp"]
OF_A_RUN = ["tracin_self", "class_alignment", "moso", "moso_loo"]


@pytest.fixture(scope="module")
def study() -> Study:
    return Study(
        name="own",
        dataset="digits+subset(30, test=10)",
        model="small_cnn",
        query_model="small_cnn",
        training=Training(epochs=6, batch_size=64, learning_rate=0.1),
        checkpoints=3,
        score_epoch_fraction=0.5,
        param_space={"method": ["el2n"], "quotas": ["none"], "keep_fraction": [0.5]},
    )


@pytest.fixture(scope="module")
def store(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A study's query run, and all scores that it computes of it."""
    store = Store(open_place(tmp_path_factory.mktemp("study")))
    dataset = load_dataset(study.dataset)
    data = prepare(dataset)
    run_query(study, query_run(study, dataset.fingerprint, "small_cnn", 0), data, store, "cpu")
    gradients = ShardedGradients(
        LocalExecutor(GradientWorker(data, "small_cnn")), dataset.train.ids
    )
    for method in ONE_MODEL + OF_A_RUN:
        run = score_run(study, dataset.fingerprint, method, "small_cnn", 0)
        run_score(study, run, dataset.train, store, gradients)
    return store


@pytest.mark.parametrize("method", ONE_MODEL + OF_A_RUN)
def test_scores_are_the_bits_of_a_study(method: str, study: Study, store: Store) -> None:
    dataset = load_dataset(study.dataset)
    run = query_run(study, dataset.fingerprint, "small_cnn", 0)
    result = load_query(run, store)
    epochs = result.sampled
    if method in ONE_MODEL:
        early = method in ("grand", "grand_last_layer", "el2n")
        assert result.score_epoch is not None
        epochs = (result.score_epoch if early else len(result.learning_rates),)
    models = []
    for epoch in epochs:
        model = build_model("small_cnn", 10, dataset.input_spec).eval()
        load_state(model, result.state_after(epoch))
        models.append(model)
    rates = [result.learning_rates[epoch - 1] for epoch in epochs]
    scores = rd.score(
        models[0] if len(models) == 1 else models,
        dataset,
        method=method,
        learning_rates=rates,
        steps=result.steps,
        # The study measures them on the trained model, which is none of the sampled ones.
        recalls=result.validation_recalls if method == "class_alignment" else None,
        seed=0,
    )
    entry = store.read("scores", score_run(study, dataset.fingerprint, method, "small_cnn", 0).key)
    assert entry is not None
    np.testing.assert_array_equal(scores.values, entry.array("scores"))
    assert scores.ids is not None
    assert scores.ids.tolist() == dataset.train.ids.tolist()
    assert scores.higher_is_kept == entry.info["higher_is_kept"]
    assert scores.names("class") == list(dataset.class_names)


# Anybody's data and models, against slow twins.

N, K, D = 30, 3, 4
GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(N, D, generator=GENERATOR), torch.arange(N) % K


def _linear(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(D, K).eval()


def _norms(model: nn.Module, x: Any = X, y: Tensor = Y, logits: Any = lambda z: z) -> list[float]:
    """Gradient norms, one sample after the other, in double precision."""
    model, found = copy.deepcopy(model).double(), []
    for k in range(len(y)):
        one = x[k : k + 1].double() if isinstance(x, Tensor) else x(k)
        model.zero_grad()
        nn.functional.cross_entropy(logits(model(one)), y[k : k + 1]).backward()
        squares = [float((p.grad**2).sum()) for p in model.parameters() if p.grad is not None]
        found.append(sum(squares) ** 0.5)
    return found


class Items(torch.utils.data.Dataset[Any]):
    def __init__(self, make: Callable[[int], Any], n: int = N) -> None:
        self._make, self._n = make, n

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> Any:
        if index >= self._n:
            raise IndexError
        return self._make(index)


DATA: dict[str, Any] = {
    "tensors": (X, Y),
    "arrays": (X.numpy(), Y.numpy()),
    "double": (X.double().numpy(), Y.tolist()),
    "texts": (X, [f"class {k}" for k in Y.tolist()]),
    "TensorDataset": torch.utils.data.TensorDataset(X, Y),
    "items": Items(lambda k: (X[k], int(Y[k]))),
    "groups": Items(lambda k: (X[k], int(Y[k]), "ab"[k % 2])),
    "list": [(X[k].numpy(), int(Y[k])) for k in range(N)],
}


@pytest.mark.parametrize("kind", DATA)
def test_data_may_come_in_any_form(kind: str) -> None:
    model = _linear()
    scores = rd.score(model, DATA[kind], method="grand")
    np.testing.assert_allclose(scores.values, _norms(model), rtol=1e-5)
    assert scores.labels is not None
    assert scores.labels.tolist() == Y.tolist()
    kept = rd.prune(scores, keep_fraction=0.5, quotas="balanced")
    assert [*kept.counts.values()] == [5, 5, 5]
    if kind == "groups":
        assert scores.names("group") == ["a", "b"]
    if kind == "texts":
        assert scores.names("class") == ["class 0", "class 1", "class 2"]


def test_data_that_stream_are_scored_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = _linear(), Items(lambda k: (X[k], int(Y[k])))
    expected = rd.score(model, data, method="grand").values
    monkeypatch.setattr("raydrop.scores.own.DECODED_BYTES", 0)
    np.testing.assert_array_equal(rd.score(model, data, method="grand").values, expected)


class Words(nn.Module):
    """Of a dict of token ids and a mask to an output that has logits, as of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(11, 6), nn.Linear(6, K)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        mask = attention_mask[..., None].to(self.head.weight.dtype)
        mean = (self.table(input_ids) * mask).sum(1) / mask.sum(1)
        return {"logits": self.head(mean), "hidden": mean}


def test_inputs_may_be_dicts_and_outputs_too() -> None:
    torch.manual_seed(0)
    ids = torch.randint(11, (N, 5), generator=GENERATOR)
    masks = (torch.arange(5) < torch.arange(N)[:, None] % 4 + 1).long()
    model = Words().eval()
    data = Items(lambda k: ({"input_ids": ids[k], "attention_mask": masks[k]}, int(Y[k])))
    for method in ("grand", "k_center", "el2n", "grand_last_layer", "moderate"):
        assert np.isfinite(rd.score(model, data, method=method).values).all()
    named = Items(lambda k: {**data[k][0], "labels": data[k][1], "index": k})
    for same in (named, rd.with_indices(named)):
        np.testing.assert_array_equal(
            rd.score(model, same, method="grand").values,
            rd.score(model, data, method="grand").values,
        )
    found = rd.score(model, data, method="grand")

    def one(k: int) -> Any:
        return ids[k : k + 1], masks[k : k + 1]

    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = copy.deepcopy(model)

        def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
            logits: Tensor = self.words(*pair)["logits"]
            return logits

    np.testing.assert_allclose(found.values, _norms(Called(), one), rtol=1e-4)


def test_output_says_where_logits_are() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = _linear()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"features": x, "scores": self.net(x)}

    model = Pair().eval()
    expected = rd.score(model.net, (X, Y), method="grand").values
    for output in ("scores", lambda outputs: outputs["scores"]):
        found = rd.score(model, (X, Y), method="grand", output=output)
        np.testing.assert_array_equal(found.values, expected)
    with pytest.raises(ConfigError, match="say with output= where they are"):
        rd.score(model, (X, Y), method="grand")


def test_the_models_stay_as_they_are() -> None:
    models = [_linear(seed) for seed in range(3)]
    before = [copy.deepcopy(model.state_dict()) for model in models]
    rd.score(models, (X, Y), method="tracin_self", learning_rates=[0.1, 0.2, 0.3])
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not model.training


@pytest.mark.parametrize("kind", ["modules", "state dicts", "files"])
def test_checkpoints_may_be_modules_states_or_files(kind: str, tmp_path: Path) -> None:
    models, rates = [_linear(seed) for seed in range(3)], [0.3, 0.2, 0.1]
    given: Any = models
    if kind != "modules":
        states: list[Any] = [model.state_dict() for model in models]
        if kind == "files":
            for place, state in enumerate(states):
                torch.save(state, tmp_path / f"{place}.pt")
            states = [tmp_path / "0.pt", str(tmp_path / "1.pt"), tmp_path / "2.pt"]
        given = (_linear(9), states)
    scores = rd.score(given, (X, Y), method="tracin_self", learning_rates=rates)
    norms = np.array([_norms(model) for model in models])
    expected = (np.array(rates)[:, None] * norms**2).sum(0)
    np.testing.assert_allclose(scores.values, expected, rtol=1e-5)
    # Of trainings from other initialisations, the mean.
    means = rd.score(given, (X, Y), method="grand").values
    np.testing.assert_allclose(means, norms.mean(0), rtol=1e-5)
    # Of the trained model, the last one.
    last = rd.score(given, (X, Y), method="entropy").values
    np.testing.assert_array_equal(last, rd.score(models[-1], (X, Y), method="entropy").values)


def test_class_alignment_takes_recalls_or_measures_them() -> None:
    model = _linear()
    recalls = {"0": 0.9, "1": 0.2, "2": 0.5}
    scores = rd.score(model, (X, Y), method="class_alignment", recalls=recalls)
    double, gradients = copy.deepcopy(model).double(), []
    for k in range(N):
        double.zero_grad()
        logits = double(X[k : k + 1].double())
        nn.functional.cross_entropy(logits, Y[k : k + 1]).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in double.parameters()]))
    each = torch.stack(gradients)
    np.testing.assert_allclose(scores.values, each @ each[Y == 1].mean(0), rtol=1e-4, atol=1e-6)
    dataset = load_dataset("digits+subset(6, test=4)")
    torch.manual_seed(0)
    net = build_model("linear", 10, dataset.input_spec).eval()
    assert np.isfinite(rd.score(net, dataset, method="class_alignment").values).all()
    scores = rd.score(net, dataset, method="entropy")
    labels = dataset.validation.labels
    batches = make_batches(prepare(dataset), dataset.validation, torch.device("cpu"))
    ((inputs, _),) = batches([torch.arange(len(labels))])
    right = net(inputs).argmax(1).numpy() == labels
    expected = [right[labels == k].mean() for k in range(10)]
    assert scores.units["class"].recalls == pytest.approx(expected)
    assert scores.units["class"].sizes == np.bincount(labels).tolist()
    assert len(rd.prune(scores, keep_fraction=0.5, quotas="drop", recall_smoothing=1)) == 30
    with pytest.raises(ConfigError, match="Expected recalls of the classes on validation samples"):
        rd.score(model, (X, Y), method="class_alignment")
    with pytest.raises(ConfigError, match=r"a recall in \[0, 1\] for each of 3 classes"):
        rd.score(model, (X, Y), method="class_alignment", recalls=[0.5, 0.5])


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batch_size_bounds_a_pass(batch_size: int) -> None:
    sizes: list[int] = []
    model = _linear()
    model.register_forward_hook(lambda m, args, out: sizes.append(len(args[0])))

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = _linear()

        def forward(self, x: Tensor) -> Tensor:
            sizes.append(len(x))
            logits: Tensor = self.net(x)
            return logits

    outer = Outer().eval()
    scores = rd.score(outer, (X, Y), method="grand", batch_size=batch_size)
    assert max(sizes) == max(batch_size, 2)  # models are tried on two
    np.testing.assert_allclose(scores.values, _norms(outer.net), rtol=1e-5)


def test_a_recorder_observes_as_a_query_run_does(study: Study, store: Store) -> None:
    dataset = load_dataset(study.dataset)
    result = load_query(query_run(study, dataset.fingerprint, "small_cnn", 0), store)
    recorder = rd.Recorder(len(dataset.train), 10)
    model = build_model("small_cnn", 10, dataset.input_spec)
    epoch = result.sampled[0]
    load_state(model, result.state_after(epoch))
    model.train()
    recorder.observe(model, dataset)
    recorder.end_epoch()
    assert model.training
    assert result.trace is not None
    for name, values in recorder.trace.as_arrays().items():
        np.testing.assert_array_equal(values[0], result.trace.as_arrays()[name][epoch - 1])
    other = rd.Recorder(N, K)
    for _ in range(2):
        other.observe(_linear(), DATA["items"])
        other.end_epoch()
    assert other.labels.tolist() == Y.tolist()


class Stream(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(X[0], 0)])


class Wide(nn.Linear):
    def __init__(self) -> None:
        super().__init__(D, 2)


def _convolution() -> nn.Module:
    """No linear layer gives the logits."""
    last = nn.Unflatten(1, (8, 1)), nn.Conv1d(8, K, 1), nn.Flatten()
    return nn.Sequential(nn.Linear(D, 8), *last).eval()


Call = Callable[[], object]


def _score(model: Any = None, data: Any = (X, Y), method: str = "grand", **how: Any) -> object:
    return rd.score(_linear() if model is None else model, data, method=method, **how)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: _score(_linear().train()), ConfigError, "found it in training mode; call .eval()"),
        (lambda: _score([_linear(), _linear().train()]), ConfigError, "in training mode"),
        (lambda: _score(nn.Linear(D, 2).eval()), ConfigError, "labels from 0 to 1, the outputs of"),
        (lambda: _score(data=(X, Y - 1)), DataError, "labels from 0"),
        (lambda: _score(data=(X, Y[:-1])), DataError, "one label"),
        (lambda: _score(data=(X, Y.float() + 0.5)), DataError, "whole numbers or texts"),
        (lambda: _score(data=(X[:, :2], Y)), ConfigError, "Linear to take inputs 2, found"),
        (lambda: _score(data=Stream()), DataError, "Expected a map-style data set"),
        (
            lambda: _score(data=torch.utils.data.DataLoader(DATA["items"])),
            DataError,
            "found DataLoader; .*give its .dataset",
        ),
        (
            lambda: _score(data=Items(lambda k: (torch.zeros(k % 2 + 1), 0))),
            DataError,
            "inputs that make a batch",
        ),
        (lambda: _score(data=Items(lambda k: (torch.rand(D), 0))), DataError, "changes, as with"),
        (lambda: _score(data=Items(lambda k: X[k])), DataError, r"items \(inputs, label\)"),
        (lambda: _score(data=Items(lambda k: (X[k], None))), DataError, "a label of every"),
        (lambda: _score(data=[]), DataError, "found none"),
        (lambda: _score(method="grrand"), ConfigError, "did you mean grand"),
        (
            lambda: _score(method="forgetting"),
            ConfigError,
            r"a method that reads trained models \(.*el2n, entropy\), found forgetting, .*Recorder",
        ),
        (lambda: _score([]), ConfigError, "found list of nothing"),
        (lambda: _score("resnet18"), ConfigError, "Expected a trained model, .* found str"),
        (lambda: _score([_linear(), nn.Linear(D, 7).eval()]), ConfigError, "of 15 numbers, as the"),
        (
            lambda: _score((_linear(), [{"weight": torch.zeros(1)}])),
            ConfigError,
            "Expected checkpoint 0 to fit Linear",
        ),
        (lambda: _score((_linear(), ["absent.pt"])), ConfigError, "a state dict at absent.pt"),
        (
            lambda: _score([_linear(), _linear(1)], method="tracin_self"),
            ConfigError,
            "a learning rate for each of 2 checkpoints, found none",
        ),
        (
            lambda: _score([_linear(), _linear(1)], method="moso", learning_rates=[1]),
            ConfigError,
            "for each of 2 checkpoints, found 1",
        ),
        (lambda: _score(method="moso"), ConfigError, "Expected steps for moso"),
        (
            lambda: _score(_convolution(), method="k_center"),
            ScoringError,
            "^Expected a model whose logits come from its last linear layer",
        ),
        (lambda: _score(device="cuda:77"), ConfigError, "a device that torch has, found 'cuda:77'"),
        (lambda: _score(method="grand", batch_size=0), ConfigError, "batch_size of at least 1"),
        (
            lambda: _score(data=(X[:1], Y[:1]), method="moso_loo", steps=1),
            ConfigError,
            "at least 2 samples for moso_loo",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(call: Call, error: type[RaydropError], sentence: str) -> None:
    with pytest.raises(error, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_pictures_are_refused_where_the_model_is_the_users() -> None:
    image = pytest.importorskip("PIL.Image").new("L", (8, 8))
    with pytest.raises(DataError, match="found pictures; give the data set a transform"):
        _score(data=[(image, 0), (image, 1)])


def test_scoring_needs_no_ray() -> None:
    code = (
        "import sys, torch, raydrop as rd\n"
        "model = torch.nn.Linear(3, 2).eval()\n"
        "scores = rd.score(model, (torch.randn(8, 3), torch.arange(8) % 2), method='grand')\n"
        "rd.Recorder(8, 2), rd.with_indices, rd.DynamicSampler\n"
        "print(len(scores), sorted({'ray', 'timm', 'datasets', 'lightning', 'transformers'}"
        " & {*sys.modules}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "8 []", result.stderr


class Confidence(TraceMethod):
    """The probability of the true class in one epoch."""

    one_epoch = True
    higher_is_kept = False

    def from_trace(self, trace: Trace, score_epoch: int) -> Any:
        return trace.probability[score_epoch - 1]


class Squares(GradientMethod):
    name, looks_at, quantities = "squares", "last", ("norm",)

    def from_gradients(self, source: GradientSource) -> Any:
        return source.values("norm", source.run.checkpoint_epochs[-1]) ** 2


def test_methods_may_be_the_users_own() -> None:
    model = _linear()
    scores = rd.score(model, (X, Y), method=Squares())
    np.testing.assert_allclose(scores.values, np.square(_norms(model)), rtol=1e-4)
    assert scores.method == "squares"
    with torch.no_grad():
        expected = model(X).softmax(1)[torch.arange(N), Y]
    for given in (Confidence, Confidence()):
        found = rd.score(model, (X, Y), method=given)  # type: ignore[arg-type]
        np.testing.assert_allclose(found.values, expected, rtol=1e-5)
        assert (found.method, found.higher_is_kept) == ("Confidence", False)
    recorder = rd.Recorder(N, K)
    recorder.update(range(N), model(X), Y)
    recorder.end_epoch()
    np.testing.assert_allclose(recorder.scores(Confidence()).values, expected, rtol=1e-5)
    with pytest.raises(ConfigError, match="Expected the name of a method, or a ScoreMethod, found"):
        rd.score(model, (X, Y), method=7)  # type: ignore[arg-type]


def test_a_file_of_weights_runs_nothing(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "sprung").touch, ())

    torch.save({"weight": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ConfigError, match=r"Expected a state dict at .*trap.pt, found Unpickling"):
        _score((_linear(), [tmp_path / "trap.pt"]))
    assert not (tmp_path / "sprung").exists()
    torch.load(tmp_path / "trap.pt", weights_only=False)  # the trap works
    assert (tmp_path / "sprung").exists()
