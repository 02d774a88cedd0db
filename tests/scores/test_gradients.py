"""Per-sample gradient quantities against one backward pass per sample, in float64.

The models are in gradient_cases.py. Dots are compared relative to || g_i || || v ||, norms
relative to || g_i ||, sums relative to the sum of the norms.
"""

from __future__ import annotations

import copy
import functools
import gc
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from gradient_cases import (
    BATCH,
    CASES,
    CLASSES,
    CONVOLUTIONS,
    WIDTH,
    Case,
    LayerNormInFloat32,
    Problem,
    applied,
    cross_entropies,
    headed,
    linear,
    problem_of,
    stir,
    tie,
)
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from reference import dots_of, gradients_one_by_one, norms_of, parts_of, sum_of, without
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.googlenet import GoogLeNetOutputs

from raydrop.errors import ScoringError
from raydrop.models import build_model
from raydrop.scores import gradients as engine
from raydrop.scores.gradients import (
    coverage,
    gradient_sum,
    last_layer_only,
    norm_and_dot,
    parameters_of,
    per_sample_dot,
    per_sample_norm,
    rules,
    uses,
)

EXACT, SINGLE, HALF = 1e-9, 1e-4, 5e-2
properties = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])

Gradients = list[dict[str, Tensor]]


@dataclass(frozen=True)
class Solved:
    """A problem with the gradients of the batch-1 loop and a direction."""

    problem: Problem
    gradients: Gradients
    direction: dict[str, Tensor]

    @property
    def batch(self) -> tuple[nn.Module, Tensor, Tensor]:
        return self.problem.model, self.problem.inputs, self.problem.labels


def solve(problem: Problem) -> Solved:
    gradients = gradients_one_by_one(problem.model, problem.inputs, problem.labels, problem.loss)
    generator = torch.Generator().manual_seed(1)
    direction = {
        name: torch.randn(g.shape, generator=generator, dtype=g.dtype)
        for name, g in gradients[0].items()
    }
    return Solved(problem, gradients, direction)


@functools.cache
def _solution(name: str) -> tuple[Gradients, dict[str, Tensor]]:
    case = solve(problem_of(CASES[name]))
    return case.gradients, case.direction


def solved(name: str) -> Solved:
    """A case, with a model that no other test has touched."""
    return Solved(problem_of(CASES[name]), *_solution(name))


# --- comparisons; the negative controls below show what each of them rejects ---


def assert_near(found: Tensor, expected: Tensor, scale: Tensor, bound: float) -> None:
    """Every entry of ``found`` is within ``bound * scale`` of the expected one."""
    assert found.shape == expected.shape
    assert not found.requires_grad
    assert found.isfinite().all()
    worst = ((found.double() - expected) / scale.clamp_min(1e-300)).abs().max().item()
    assert worst <= bound, f"error {worst:.1e} above {bound:.0e}"


def assert_norms(found: Tensor, gradients: Gradients, bound: float = EXACT) -> None:
    expected = norms_of(gradients)
    assert_near(found, expected, expected, bound)


def length(direction: Mapping[str, Tensor]) -> Tensor:
    return norms_of([dict(direction)])[0]


def assert_dots(
    found: Tensor, gradients: Gradients, direction: Mapping[str, Tensor], bound: float = EXACT
) -> None:
    scale = norms_of(gradients) * length(direction)
    assert_near(found, dots_of(gradients, direction), scale, bound)


def assert_sums(found: Mapping[str, Tensor], gradients: Gradients, bound: float = EXACT) -> None:
    expected = sum_of(gradients)
    assert list(found) == list(expected)
    for name, value in found.items():
        scale = norms_of([{name: each[name]} for each in gradients]).sum()
        assert_near(parts_of(value), parts_of(expected[name]), scale, bound)


def _assert_equals_the_loop(found: Solved) -> None:
    """By every function there is."""
    loss = found.problem.loss
    norms, dots = norm_and_dot(*found.batch, found.direction, loss=loss)
    for each in (norms, per_sample_norm(*found.batch, loss=loss)):
        assert_norms(each, found.gradients)
    for each in (dots, per_sample_dot(*found.batch, found.direction, loss=loss)):
        assert_dots(each, found.gradients, found.direction)
    assert_sums(gradient_sum(*found.batch, loss=loss), found.gradients)


# --- every case against the loop ---

FORWARD = [
    "linear",
    "conv2d",
    "conv2d circular",
    "conv3d grouped, strided, dilated",
    "batch norm 2d",
    "group norm",
    "embedding with padding",
    "attention, own mask and padded softly",
    "encoder",
    "vision transformer",
    "tied linear layers",
    "frozen weights, biases learn",
    "frozen biases, weights learn",
    "frozen convolution and norms between layers that learn",
]

every_case = pytest.mark.parametrize("name", CASES)


@every_case
def test_every_function_equals_the_batch_1_loop(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves the model as it was; and the comparison notices the least parameter dropped."""
    monkeypatch.setattr(engine, "bytes_per_sample", lambda *_: 2**20)  # has tests of its own
    case = solve(problem_of(CASES[name]))
    model = case.problem.model
    first = next(p for p in model.parameters() if p.requires_grad)
    first.grad = torch.ones_like(first)
    torch.backends.mha.set_fastpath_enabled(True)
    before = _state(model)
    _assert_equals_the_loop(case)
    _assert_covered(CASES[name], model, coverage(model, case.problem.inputs))
    assert _state(model) == before
    named = dict(model.named_parameters())
    shown = [key for key in case.direction if CASES[name].shows(key, named[key])]
    share = {key: norms_of([{key: each[key]} for each in case.gradients]).max() for key in shown}
    _assert_rejected_without(case, min(shown, key=lambda key: share[key]))
    for key in case.direction.keys() - shown:
        assert not any(each[key].any() for each in case.gradients)


def _assert_covered(case: Case, model: nn.Module, found: Any) -> None:
    """Every parameter is listed once, with the path that its case states."""
    parameters = dict(model.named_parameters())
    assert [each.name for each in found] == list(parameters)
    for each in found:
        parameter = parameters[each.name]
        assert tuple(each.shape) == tuple(parameter.shape)
        assert bool(each.reason) == (each.path == "general")
        assert each.path in case.paths(each.name, parameter), each


# --- coverage ---


@pytest.mark.parametrize("name", ["swin", "convnext block"])
def test_layers_of_torchvision_that_call_functions_have_rules(name: str) -> None:
    problem = solved(name).problem
    found = coverage(problem.model, problem.inputs)
    general = {each.name for each in found if each.path == "general"}
    assert general == {each for each in general if each.endswith("relative_position_bias_table")}


@pytest.mark.parametrize("name", ["conv2d", "vision transformer", "lstm", "bare scale"])
def test_general_path_is_said_once_and_only_where_it_is_taken(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    case = solved(name)
    general = {
        each.name
        for each in coverage(case.problem.model, case.problem.inputs)
        if each.path == "general"
    }
    for rows in (torch.arange(BATCH), torch.arange(2)):
        _scores(case, rows)
        gradient_sum(*case.batch)
    said = [record.getMessage() for record in caplog.records if "general path" in record.message]
    assert len(said) == (1 if general else 0)
    assert all(any(each in said[0] for each in general) for _ in said)
    if not general:
        assert not caplog.records


@pytest.mark.parametrize(
    "name",
    [
        "weight used again as a function",
        "weight only used as a function",
        "positions without a batch",
        "two views behind one another in the batch",
    ],
)
def test_coverage_of_inputs_finds_uses_that_rules_do_not_see(name: str) -> None:
    case = solved(name)
    found = coverage(case.problem.model, case.problem.inputs)
    assert [each.name for each in found] == [n for n, _ in case.problem.model.named_parameters()]
    odd = [each for each in found if each.path == "general"]
    assert odd
    assert all(each.reason for each in odd)


@pytest.mark.parametrize("name", ["bare scale of the inputs", "vision transformer", "swin", "lstm"])
def test_only_parameters_without_a_rule_take_the_general_path(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = solved(name)
    taken: set[str] = set()
    original = engine._general

    def recording(batch: Any, names: frozenset[str]) -> Any:
        taken.update(names)
        return original(batch, names)

    monkeypatch.setattr(engine, "_general", recording)
    per_sample_norm(*case.batch)
    listed = coverage(case.problem.model, case.problem.inputs)
    assert taken == {each.name for each in listed if each.path == "general"}


@pytest.mark.parametrize("name", FORWARD)
def test_dots_of_layers_with_a_rule_are_found_in_forward_mode(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = solved(name)
    per_sample_dot(*case.batch, case.direction, loss=case.problem.loss)  # compares both modes
    monkeypatch.setattr(engine, "_backward_mode", None)
    found = per_sample_dot(*case.batch, case.direction, loss=case.problem.loss)
    assert_dots(found, case.gradients, case.direction)
    assert "orward mode" not in caplog.text


def test_coverage_names_layers_and_reasons() -> None:
    model = solved("prelu").problem.model
    found = {each.name: each for each in coverage(model, solved("prelu").problem.inputs)}
    assert found["layers.0.weight"].layer == "Conv2d"
    assert found["layers.1.weight"].layer == "PReLU"
    problem = solved("bare scale").problem
    bare = {each.name: each for each in coverage(problem.model, problem.inputs)}
    assert bare["layer.weight"].layer == "Linear"
    assert bare["scale"].path == "general"


# --- identities that no implementation shares ---

some_cases = pytest.mark.parametrize(
    "name",
    [
        "conv2d grouped, of few positions",
        "batch norm 2d",
        "vision transformer",
        "tied linear layers",
        "lstm",
    ],
)


@some_cases
def test_mean_of_products_with_the_mean_gradient_is_its_squared_norm(name: str) -> None:
    case = solved(name)
    total = gradient_sum(*case.batch, loss=case.problem.loss)
    mean = {key: value / len(case.gradients) for key, value in total.items()}
    squared = length(mean).square()
    for dots in (per_sample_dot(*case.batch, mean), norm_and_dot(*case.batch, mean)[1]):
        torch.testing.assert_close(dots.mean(), squared, rtol=EXACT, atol=0)


@some_cases
def test_leaving_one_out_equals_its_closed_form(name: str) -> None:
    case = solved(name)
    model, inputs, labels = case.batch
    n = len(labels)
    mean = {key: value / n for key, value in gradient_sum(*case.batch).items()}
    norms, dots = norm_and_dot(*case.batch, mean)
    for i in range(n):
        others = torch.arange(n) != i
        rest = gradient_sum(model, inputs[others], labels[others])
        left = {key: value / (n - 1) for key, value in rest.items()}
        found = per_sample_dot(model, inputs[i : i + 1], labels[i : i + 1], left)[0]
        closed = (n * dots[i] - norms[i].square()) / (n - 1)
        assert (found - closed).abs() <= EXACT * norms[i] * length(left)


def test_grand_of_a_linear_model_is_el2n_times_the_input_norm() -> None:
    model, inputs, labels = solved("only a linear head").batch
    error = torch.softmax(model(inputs), 1) - F.one_hot(labels, CLASSES)
    expected = error.norm(dim=1) * (1 + inputs.square().sum(1)).sqrt()
    torch.testing.assert_close(per_sample_norm(model, inputs, labels), expected.detach())


def test_a_loss_that_ignores_the_model_has_zero_gradients() -> None:
    case = solved("conv2d of few positions")
    found = norm_and_dot(*case.batch, case.direction, loss=lambda z, y: (0 * z).sum(1))
    assert torch.equal(torch.stack(found), torch.zeros(2, BATCH, dtype=torch.float64))


def test_scores_scale_with_the_loss() -> None:
    case = solved("vision transformer")

    def tripled(logits: Tensor, labels: Tensor) -> Tensor:
        return -3 * case.problem.loss(logits, labels)

    norms, dots = norm_and_dot(*case.batch, case.direction, loss=tripled)
    assert_norms(norms / 3, case.gradients)
    assert_dots(dots / -3, case.gradients, case.direction)


def test_last_layer_only_is_el2n_times_the_norm_of_the_features() -> None:
    torch.manual_seed(0)
    model = build_model("small_cnn", CLASSES, (1, 8, 8)).double().eval()
    stir(model)
    inputs, labels = torch.randn(BATCH, 1, 8, 8, dtype=torch.float64), torch.arange(BATCH) % CLASSES
    features: list[Tensor] = []
    last = [each for each in model.modules() if isinstance(each, nn.Linear)][-1]
    with last.register_forward_pre_hook(lambda module, args: features.append(args[0])):
        logits = model(inputs)
    error = torch.softmax(logits, 1) - F.one_hot(labels, CLASSES)
    expected = error.norm(dim=1) * (1 + features[0].square().sum(1)).sqrt()
    with last_layer_only(model):
        assert [p is last.weight or p is last.bias for p in model.parameters()] == [
            p.requires_grad for p in model.parameters()
        ]
        found = per_sample_norm(model, inputs, labels)
    torch.testing.assert_close(found, expected.detach())
    assert all(p.requires_grad for p in model.parameters())


def test_last_layer_only_gives_back_what_was_frozen_after_an_error_too() -> None:
    model = nn.Sequential(linear(), nn.ReLU(), linear(CLASSES))
    model[0].bias.requires_grad_(False)
    with pytest.raises(KeyError), last_layer_only(model):
        raise KeyError
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True]


# --- invariances ---


def _scores(case: Solved, rows: Tensor) -> Tensor:
    """Norms and dots by every way there is, (4, len(rows))."""
    model, inputs, labels = case.batch
    batch = (model, inputs[rows], labels[rows])
    loss = case.problem.loss
    return torch.stack(
        [
            per_sample_norm(*batch, loss=loss),
            per_sample_dot(*batch, case.direction, loss=loss),
            *norm_and_dot(*batch, case.direction, loss=loss),
        ]
    )


invariant_cases = pytest.mark.parametrize(
    "name",
    [
        "conv2d of few positions",
        "conv2d grouped",
        "embedding of repeated words",
        "attention, sequence first, as many tokens as samples",
        "swin",
        "module called twice",
        "bare scale",
        "tokens folded into the batch",
        "lstm",
    ],
)


@invariant_cases
def test_size_and_order_of_a_batch_do_not_change_a_score(name: str) -> None:
    case = solved(name)
    order = torch.tensor([3, 0, 4, 2, 1])
    whole = _scores(case, torch.arange(BATCH))
    parts = [_scores(case, rows) for rows in order.split(2)]
    torch.testing.assert_close(torch.cat(parts, 1), whole[:, order], rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("bytes_at_once", [3000])
@pytest.mark.parametrize(
    "name",
    [
        "linear on many tokens",
        "conv2d",
        "conv2d of few positions",
        "conv2d grouped",
        "conv3d grouped, strided, dilated",
        "layer norm on tokens",
        "tokens folded into the batch",
        "vision transformer",
        "tied linear layers on tokens",
        "lstm",
    ],
)
def test_what_is_held_at_once_does_not_change_a_score(
    name: str, bytes_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    everywhere = dict.fromkeys(rules.WORKSPACE_BYTES, bytes_at_once)
    monkeypatch.setattr(rules, "WORKSPACE_BYTES", everywhere)
    monkeypatch.setattr(engine, "GENERAL_BYTES", bytes_at_once)
    _assert_equals_the_loop(solved(name))


def test_a_score_is_the_same_bits_again() -> None:
    case = solved("vision transformer")
    rows = torch.arange(BATCH)
    assert torch.equal(_scores(case, rows), _scores(case, rows))


@pytest.mark.parametrize("name", ["conv2d", "vision transformer", "lstm"])
def test_gradients_may_be_switched_off_around_the_call(name: str) -> None:
    case = solved(name)
    rows = torch.arange(BATCH)
    with torch.no_grad():
        assert torch.equal(_scores(case, rows), _scores(case, rows))
        assert_sums(gradient_sum(*case.batch, loss=case.problem.loss), case.gradients)
    torch.testing.assert_close(_scores(case, rows)[0], norms_of(case.gradients))


def test_directions_that_track_gradients_are_fine() -> None:
    case = solved("vision transformer")
    tracked = {key: value.clone().requires_grad_() for key, value in case.direction.items()}
    assert_dots(per_sample_dot(*case.batch, tracked), case.gradients, case.direction)
    assert_dots(norm_and_dot(*case.batch, tracked)[1], case.gradients, case.direction)


@pytest.mark.parametrize("name", ["conv2d", "embedding of repeated words", "swin", "lstm"])
def test_a_batch_of_one_before_a_larger_one_changes_nothing(name: str) -> None:
    case = solved(name)
    one = _scores(case, torch.arange(1))
    whole = _scores(case, torch.arange(BATCH))
    torch.testing.assert_close(one, whole[:, :1], rtol=EXACT, atol=EXACT)
    assert_norms(whole[0], case.gradients)


def _assert_solves(problem: Problem) -> None:
    _assert_equals_the_loop(solve(problem))


def _flagged(self: Any, inputs: Tensor) -> Tensor:
    hidden = torch.tanh(self.layer(inputs))
    again = torch.tanh(F.linear(hidden, self.layer.weight)) if self.again else hidden
    return self.head(torch.tanh(self.layer(again)) if self.twice else again)


def _change_nothing(model: Any) -> None:
    pass


def _freeze(model: Any) -> None:
    model.layer.requires_grad_(False)


def _use_again(model: Any) -> None:
    model.again = True


def _call_twice(model: Any) -> None:
    model.twice = True


def _replace_weight(model: Any) -> None:
    model.layer.weight = nn.Parameter(2 * model.layer.weight.detach())


def _replace_layer(model: Any) -> None:
    model.layer = Squared(WIDTH, WIDTH).double()


def _parametrise(model: Any) -> None:
    nn.utils.parametrizations.weight_norm(model.layer)


def _tie(model: Any) -> None:
    model.head = nn.Linear(WIDTH, WIDTH).double()
    model.head.weight = model.layer.weight


def _hook(model: Any) -> None:
    model.layer.register_forward_hook(
        lambda module, inputs, output: output * module.weight.square().mean()
    )


class Squared(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).square()


@pytest.mark.parametrize(
    "change",
    [
        _change_nothing,
        _freeze,
        _use_again,
        _call_twice,
        _replace_weight,
        _replace_layer,
        _parametrise,
        _tie,
        _hook,
    ],
)
def test_a_model_that_changes_between_calls_is_seen_as_it_is(
    change: Callable[[nn.Module], None],
) -> None:
    case = applied(_flagged, parts=lambda: {"layer": linear(), "head": linear(CLASSES)})
    problem = problem_of(case)
    problem.model.again = problem.model.twice = False
    _assert_solves(problem)
    change(problem.model)
    _assert_solves(problem)


@pytest.mark.parametrize("another_before", [False, True])
def test_a_loss_that_reads_parameters_is_refused(another_before: bool) -> None:
    problem = solved("conv2d").problem
    weight = problem.model.get_parameter("head.weight")

    def decayed(logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropies(logits, labels) + weight.square().sum()

    if another_before:
        _assert_solves(problem)
    with pytest.raises(ScoringError, match=r"reads \['head.weight'\]; leave penalties"):
        per_sample_norm(problem.model, problem.inputs, problem.labels, loss=decayed)


@pytest.mark.parametrize("kind", [nn.Embedding, partial(nn.EmbeddingBag, mode="sum")])
def test_a_table_that_scales_by_the_batch_is_refused(kind: Callable[..., nn.Module]) -> None:
    model = nn.Sequential(kind(5, 4, scale_grad_by_freq=True), nn.Flatten(), nn.LazyLinear(CLASSES))
    words, labels = torch.tensor([[1, 2], [2, 2]]), torch.tensor([0, 1])
    model(words)
    for call in _calls(model, words, labels):
        with pytest.raises(ScoringError, match=r"layer '0' .* scale_grad_by_freq=False"):
            call()


def _skipping_large_ones(self: Any, inputs: Tensor) -> Tensor:
    small = inputs[:, 0] < 100
    outputs = inputs.clone()
    outputs[small] = self.layer(inputs[small])
    return self.head(torch.tanh(outputs))


def test_a_sample_that_skips_a_layer_is_seen_although_no_other_one_does() -> None:
    case = applied(_skipping_large_ones, parts=lambda: {"layer": linear(), "head": linear(CLASSES)})
    problem = problem_of(case)
    _assert_solves(problem)
    problem.inputs[3, 0] = 1000
    _assert_solves(problem)


@pytest.mark.parametrize("name", ["conv2d", "batch norm 2d", "vision transformer", "lstm"])
@pytest.mark.parametrize("row", [0, 3])
def test_a_sample_that_is_not_finite_leaves_the_others_alone(name: str, row: int) -> None:
    case = solved(name)
    case.problem.inputs[row] = torch.nan
    found = _scores(case, torch.arange(BATCH))
    others = torch.arange(BATCH) != row
    assert found[:, row].isnan().all()
    expected = norms_of(case.gradients)
    torch.testing.assert_close(found[0, others], expected[others], rtol=EXACT, atol=EXACT)
    assert found.isfinite().sum() == found.numel() - len(found)


def test_inputs_that_track_gradients_and_other_memory_formats_are_fine() -> None:
    case = solved("conv2d")
    model, inputs, labels = case.batch
    for batch in (
        inputs.clone().requires_grad_(),
        inputs.to(memory_format=torch.channels_last),
        inputs.flip(0).flip(0).mT.contiguous().mT,
    ):
        assert_norms(per_sample_norm(model, batch, labels), case.gradients)
        assert_dots(
            per_sample_dot(model, batch, labels, case.direction), case.gradients, case.direction
        )
        assert_sums(gradient_sum(model, batch, labels), case.gradients)
    assert inputs.grad is None


def _state(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that scoring has to leave alone."""
    kept: dict[str, Any] = {
        "rng": torch.get_rng_state().tolist(),
        "torch": (
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.backends.mha.get_fastpath_enabled(),
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
        ),
    }
    for name, module in model.named_modules():
        kept[f"{name} attributes"] = {
            key: list(value.items()) if key.endswith("hooks") else id(value)
            for key, value in vars(module).items()
            if key.endswith("hooks") or not (key.startswith("_") or isinstance(value, Tensor))
        }
        kept[f"{name} training"] = module.training
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        bits = tensor.detach().numpy().tobytes()
        grad = None if tensor.grad is None else tensor.grad.numpy().tobytes()
        kept[name] = (id(tensor), tensor.requires_grad, tensor.is_leaf, bits, grad)
    return kept


def test_nothing_is_held_after_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    watching: list[weakref.ref[Any]] = []
    original = uses._Watching.__init__

    def watched(self: Any, *args: Any) -> None:
        watching.append(weakref.ref(self))
        original(self, *args)

    monkeypatch.setattr(uses._Watching, "__init__", watched)
    for name in ("conv2d", "vision transformer", "gradient of an energy"):
        case = solved(name)
        norm_and_dot(*case.batch, case.direction)
    gc.collect()
    assert len(watching) > 6
    assert not any(each() for each in watching)


def test_model_is_left_as_it_was_after_errors_inside() -> None:
    class Failing(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            raise KeyError("inside")

    model = nn.Sequential(linear(), nn.BatchNorm1d(WIDTH), Failing(), linear(CLASSES)).eval()
    model[0].bias.requires_grad_(False)
    inputs, labels = torch.randn(BATCH, WIDTH), torch.arange(BATCH) % CLASSES
    before = _state(model)
    for call in _calls(model, inputs, labels):
        with pytest.raises(KeyError, match="inside"):
            call()
    assert _state(model) == before


def test_model_is_left_as_it_was_after_an_error_in_the_loss() -> None:
    problem = problem_of(CASES["inverted residual"], torch.float32)
    before = _state(problem.model)

    def failing(logits: Tensor, labels: Tensor) -> Tensor:
        raise KeyError("inside")

    for call in _calls(problem.model, problem.inputs, problem.labels, loss=failing):
        with pytest.raises(KeyError, match="inside"):
            call()
    assert _state(problem.model) == before


def _all_refused(problem: Problem, match: str, labels: Tensor | None = None) -> None:
    """Every public function says the same about a model or a batch."""
    given = problem.labels if labels is None else labels
    loss = {} if problem.loss is cross_entropies else {"loss": problem.loss}
    for call in _calls(problem.model, problem.inputs, given, **loss):
        with pytest.raises(ScoringError, match=match):
            call()


def test_hooks_on_gradients_of_parameters_are_refused_by_name() -> None:
    problem = problem_of(CASES["linear"])
    weight = problem.model.get_parameter("head.weight")
    handle = weight.register_hook(lambda gradient: gradient * 0)
    _all_refused(problem, r"without hooks on their gradients, found some on head\.weight")
    handle.remove()
    _assert_solves(problem)
    frozen_one = problem.model.get_parameter("layers.0.weight")
    frozen_one.register_hook(lambda gradient: gradient * 0)
    frozen_one.requires_grad_(False)
    _assert_solves(problem)


def test_a_table_of_limited_length_that_is_tied_mixes_samples() -> None:
    case = applied(
        lambda self, x: self.head(torch.tanh(self.embed(x)).sum(1))[:, :CLASSES],
        (2,),
        parts=lambda: {
            "embed": (embed := nn.Embedding(7, WIDTH, max_norm=0.5)),
            "head": tie(nn.Linear(WIDTH, 7), "weight", embed.weight),
        },
        words=True,
    )
    problem = problem_of(case)
    before = problem.model.embed.weight.detach().clone()
    _all_refused(problem, "each sample of a batch by itself")
    assert torch.equal(problem.model.embed.weight, before)


class Counting(nn.Module):
    """Writes to itself in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.largest.copy_(torch.maximum(self.largest, inputs.detach().abs().max()))
        return inputs


def test_a_model_that_writes_to_itself_is_refused_by_name() -> None:
    _all_refused(problem_of(headed((WIDTH,), linear, Counting)), "writes layers.1.largest")
    trained = problem_of(
        headed((WIDTH,), lambda: nn.utils.parametrizations.spectral_norm(linear()))
    )
    trained.model.train()
    _all_refused(trained, r"writes layers\.0\.parametrizations\.weight\.0\._u")


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.MultiheadAttention(WIDTH, 2, dropout=0.5, batch_first=True),
        lambda: nn.LSTM(WIDTH, WIDTH, 2, dropout=0.5, batch_first=True),
    ],
    ids=["attention", "lstm"],
)
def test_dropout_within_a_layer_is_refused_in_train_mode(layer: Callable[[], nn.Module]) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        inputs = (x, x, x) if isinstance(self.layer, nn.MultiheadAttention) else (x,)
        return self.head(self.layer(*inputs)[0].mean(1))

    case = applied(forward, (2, WIDTH), parts=lambda: {"layer": layer(), "head": linear(CLASSES)})
    problem = problem_of(case)
    problem.model.train()
    _all_refused(problem, r"layer 'layer' in train mode.* call model\.eval\(\)")


@pytest.mark.parametrize("always", [F.dropout, partial(F.rrelu, training=True)])
def test_a_model_that_depends_on_chance_is_not_said_to_mix_samples(
    always: Callable[[Tensor], Tensor],
) -> None:
    case = applied(
        lambda self, x: self.head(always(self.layer(x))),
        parts=lambda: {"layer": linear(), "head": linear(CLASSES)},
    )
    _all_refused(problem_of(case), "same outputs for the same inputs.*depends on chance")


@pytest.mark.parametrize(
    "hidden",
    [
        torch.no_grad(),
        torch.inference_mode(),
    ],
    ids=["no_grad", "inference_mode"],
)
def test_a_model_that_computes_without_gradients_is_refused(hidden: Any) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        with hidden:
            return self.head(x)

    case = applied(forward, parts=lambda: {"head": linear(CLASSES)})
    _all_refused(problem_of(case), "logits that autograd can follow to trainable parameters")


def test_logits_that_are_detached_are_refused() -> None:
    case = applied(lambda self, x: self.head(x).detach(), parts=lambda: {"head": linear(CLASSES)})
    _all_refused(problem_of(case), "logits that autograd can follow")


class Keeping(nn.Module):
    """Computes a bias from its parameter once, as some attention layers do in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(WIDTH))
        self.kept: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = self.table[torch.arange(WIDTH)]
        return inputs + self.kept


def test_a_model_that_keeps_what_it_computed_is_refused() -> None:
    case = Case(lambda: nn.Sequential(linear(), Keeping(), linear(CLASSES)))
    for first in range(5):  # each function on a model that no other one has run
        problem = problem_of(case)
        calls = _calls(problem.model, problem.inputs, problem.labels)
        for call in calls[first:]:
            with pytest.raises(ScoringError, match="computes everything anew"):
                call()


def test_a_reentrant_checkpoint_is_refused_also_for_sums() -> None:
    case = applied(
        lambda self, x: self.head(checkpoint(self.layer, x.requires_grad_(), use_reentrant=True)),
        parts=lambda: {"layer": linear(), "head": linear(CLASSES)},
    )
    _all_refused(problem_of(case), "pass use_reentrant=False")


# --- outputs and batches of other forms ---


@dataclass
class Outputs:
    """As transformers has them."""

    logits: Tensor
    hidden: Tensor


def _wrapped(form: Callable[[Tensor], Any]) -> Problem:
    case = applied(lambda self, x: form(self.head(x)), parts=lambda: {"head": linear(CLASSES)})
    return problem_of(case)


@pytest.mark.parametrize(
    "form",
    [
        lambda z: {"loss": z.sum(), "logits": z},
        lambda z: Outputs(z, 2 * z),
        lambda z: GoogLeNetOutputs(z, 2 * z, 3 * z),
    ],
    ids=["dictionary", "object", "named tuple"],
)
def test_logits_are_found_among_several_outputs(form: Callable[[Tensor], Any]) -> None:
    problem, plain = _wrapped(form), solve(_wrapped(lambda z: z))
    found = Solved(problem, plain.gradients, plain.direction)
    _assert_equals_the_loop(found)
    assert {each.path for each in coverage(*found.batch[:2])} == {"rule"}


@pytest.mark.parametrize(
    ("form", "found"),
    [
        (lambda z: {"out": z, "aux": z}, "a dict of 'out', 'aux'"),
        (lambda z: (z, z), "a tuple"),
        (lambda z: [z], "a list"),
        (lambda z: None, "a NoneType"),
        (lambda z: z.sum(), r"shape \(\) for 2 samples"),
        (lambda z: z[:1], r"shape \(1, 4\) for 2 samples"),
        (lambda z: {"logits": z.T}, r"shape \(4, 2\) for 2 samples"),
    ],
)
def test_outputs_without_logits_are_refused(form: Callable[[Tensor], Any], found: str) -> None:
    problem = _wrapped(form)
    _all_refused(problem, f"returns logits, one row per sample.*found {found}; wrap it")
    with pytest.raises(ScoringError, match=found):
        coverage(problem.model, problem.inputs)


@pytest.mark.parametrize(
    ("form", "found"),
    [
        (lambda z: z[..., None, None].expand(-1, -1, 2, 2), r"some of shape \(2, 4, 2, 2\)"),
        (lambda z: z[:, 0], r"some of shape \(2,\)"),
        (lambda z: torch.complex(z, z), r"complex ones of shape \(2, 4\)"),
    ],
    ids=["images", "one number", "complex"],
)
def test_logits_that_the_cross_entropy_cannot_take_are_refused(
    form: Callable[[Tensor], Tensor], found: str
) -> None:
    _all_refused(_wrapped(form), f"real logits \\(B, K\\) .*found {found}; wrap the model")


def test_complex_losses_are_refused() -> None:
    problem = _wrapped(lambda z: z)
    batch = problem.model, problem.inputs, problem.labels
    for call in _calls(*batch, loss=lambda z, y: torch.complex(z, z).sum(1)):
        with pytest.raises(ScoringError, match="real losses, found complex ones"):
            call()


def test_outputs_with_one_number_per_pixel_have_a_loss_of_their_own() -> None:
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        maps = labels[:, None, None].expand(-1, 2, 2)
        return F.cross_entropy(logits, maps, reduction="none").mean((1, 2))

    _assert_solves(problem_of(Case(lambda: nn.Conv2d(3, CLASSES, 1), (3, 2, 2), loss=loss)))


@pytest.mark.parametrize("name", ["conv2d", "lstm", "embedding bag", "complex linear"])
def test_an_empty_batch_has_empty_results(name: str) -> None:
    case = solved(name)
    model, inputs, labels = case.batch
    empty = model, inputs[:0], labels[:0]
    scores = [
        per_sample_norm(*empty),
        per_sample_dot(*empty, case.direction),
        *norm_and_dot(*empty, case.direction),
    ]
    assert [each.shape for each in scores] == [(0,)] * 4
    assert {each.dtype for each in scores} == {torch.float64}
    parameters = parameters_of(model)
    sums = gradient_sum(*empty)
    assert {name: value.shape for name, value in sums.items()} == {
        name: value.shape for name, value in parameters.items()
    }
    assert not any(value.any() for value in sums.values())
    with pytest.raises(ScoringError, match="found none; give one at least"):
        coverage(*empty[:2])
    assert_norms(per_sample_norm(*case.batch), case.gradients)


@pytest.mark.parametrize("kind", [torch.int16, torch.uint8])
@pytest.mark.parametrize("name", ["conv2d", "lstm", "squared error"])
def test_labels_of_any_whole_type_are_the_same(name: str, kind: torch.dtype) -> None:
    case = solved(name)
    model, inputs, labels = case.batch
    narrow = Solved(
        Problem(model, inputs, labels.to(kind), case.problem.loss),
        case.gradients,
        case.direction,
    )
    _assert_equals_the_loop(narrow)


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (torch.zeros(BATCH), r"float32 of shape \(5,\)"),
        (torch.zeros(BATCH, 1, dtype=torch.long), r"int64 of shape \(5, 1\)"),
        (torch.zeros(BATCH - 1, dtype=torch.long), r"int64 of shape \(4,\)"),
        (torch.zeros(BATCH, CLASSES), r"float32 of shape \(5, 4\)"),
    ],
    ids=["floats", "column", "too few", "one number per class"],
)
@pytest.mark.parametrize("name", ["only a linear head", "lstm"])
def test_labels_that_are_no_classes_are_refused(name: str, labels: Tensor, found: str) -> None:
    match = rf"labels of shape \(5,\), one whole number per sample, found {found}; give"
    _all_refused(solved(name).problem, match, labels)


def test_targets_that_are_no_classes_go_with_a_loss_of_their_own() -> None:
    problem = _wrapped(lambda z: z)
    targets = torch.softmax(problem.inputs[:, :CLASSES], 1)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="none")

    _assert_solves(Problem(problem.model, problem.inputs, targets, loss))


@pytest.mark.parametrize(
    "name", ["conv2d", "vision transformer", "lstm", "embedding bag of limited length"]
)
def test_inference_mode_around_the_call_changes_nothing(name: str) -> None:
    case = solved(name)
    rows = torch.arange(len(case.gradients))
    expected = _scores(case, rows)
    with torch.inference_mode():
        within = [value.clone() for value in case.batch[1:]]
        direction = {key: value.clone() for key, value in case.direction.items()}
        assert all(value.is_inference() for value in (*within, *direction.values()))
        problem = Problem(case.problem.model, *within, case.problem.loss)
        inside = Solved(problem, case.gradients, direction)
        torch.testing.assert_close(_scores(inside, rows), expected, rtol=EXACT, atol=EXACT)
        assert_sums(gradient_sum(*inside.batch), case.gradients)
        assert coverage(*inside.batch[:2]) == coverage(*case.batch[:2])


def test_a_model_made_in_inference_mode_is_refused_by_name() -> None:
    with torch.inference_mode():
        problem = _wrapped(lambda z: z)
    _all_refused(problem, r"outside of torch\.inference_mode, found 'head\.weight'")


@pytest.mark.parametrize("layer", [lambda: nn.LazyLinear(WIDTH), nn.LazyBatchNorm1d])
def test_a_lazy_layer_without_shape_is_refused_by_name(layer: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(linear(), layer(), linear(CLASSES)).eval()
    inputs, labels = torch.randn(BATCH, WIDTH), torch.arange(BATCH) % CLASSES
    for call in (
        lambda: per_sample_norm(model, inputs, labels),
        lambda: per_sample_dot(model, inputs, labels, {}),
        lambda: norm_and_dot(model, inputs, labels, {}),
        lambda: gradient_sum(model, inputs, labels),
        lambda: coverage(model, inputs),
    ):
        with pytest.raises(ScoringError, match=r"layer '1' that has not seen an input yet; run"):
            call()
    model(inputs)
    _assert_solves(Problem(model.double(), inputs.double(), labels, cross_entropies))


@pytest.mark.parametrize("words", [torch.bool, torch.uint8])
def test_inputs_of_whole_numbers_need_not_be_words(words: torch.dtype) -> None:
    case = applied(
        lambda self, x: self.head(torch.tanh(self.layer(x.double()))),
        parts=lambda: {"layer": linear(), "head": linear(CLASSES)},
    )
    problem = problem_of(case)
    _assert_solves(
        Problem(problem.model, (problem.inputs > 0).to(words), problem.labels, problem.loss)
    )


def test_complex_inputs_are_fine() -> None:
    case = applied(
        lambda self, x: self.head(torch.view_as_real(x).flatten(1)),
        parts=lambda: {"head": linear(CLASSES, 2 * WIDTH)},
    )
    problem = problem_of(case)
    inputs = torch.complex(problem.inputs, problem.inputs.flip(0))
    _assert_solves(Problem(problem.model, inputs, problem.labels, problem.loss))


# --- negative controls: what the comparisons reject ---


def _assert_rejected_without(case: Solved, dropped: str) -> None:
    control = without(case.gradients, dropped)
    if control[0]:
        with pytest.raises(AssertionError, match="above"):
            assert_norms(norms_of(control), case.gradients)
        with pytest.raises(AssertionError, match="above"):
            assert_dots(dots_of(control, case.direction), case.gradients, case.direction)
    with pytest.raises(AssertionError):
        assert_sums(sum_of(control) if control[0] else {}, case.gradients)


@some_cases
def test_comparisons_reject_each_dropped_parameter_in_turn(name: str) -> None:
    case = solved(name)
    for dropped in case.direction:
        _assert_rejected_without(case, dropped)


@some_cases
def test_comparisons_reject_a_mean_over_the_batch(name: str) -> None:
    case = solved(name)
    averaged = [{key: value / BATCH for key, value in each.items()} for each in case.gradients]
    loss = case.problem.loss
    with pytest.raises(AssertionError, match="above"):
        assert_norms(per_sample_norm(*case.batch, loss=loss), averaged)
    found = per_sample_dot(*case.batch, case.direction, loss=loss)
    with pytest.raises(AssertionError, match="above"):
        assert_dots(found, averaged, case.direction)
    with pytest.raises(AssertionError, match="above"):
        assert_sums(gradient_sum(*case.batch, loss=loss), averaged)


def test_comparisons_reject_batch_statistics() -> None:
    case = solved("batch norm 2d")
    model = copy.deepcopy(case.problem.model).train()
    named = dict(model.named_parameters())
    losses = case.problem.loss(model(case.problem.inputs), case.problem.labels)
    rows = [torch.autograd.grad(each, list(named.values()), retain_graph=True) for each in losses]
    mixed = [dict(zip(named, row, strict=True)) for row in rows]
    with pytest.raises(AssertionError, match="above"):
        assert_norms(per_sample_norm(*case.batch), mixed)
    with pytest.raises(AssertionError, match="above"):
        assert_dots(per_sample_dot(*case.batch, case.direction), mixed, case.direction)
    with pytest.raises(AssertionError, match="above"):
        assert_sums(gradient_sum(*case.batch), mixed)


def test_comparisons_reject_another_order_of_samples() -> None:
    case = solved("conv2d")
    with pytest.raises(AssertionError, match="above"):
        assert_norms(per_sample_norm(*case.batch), case.gradients[::-1])


# --- precision ---


@functools.cache
def _resnet() -> Solved:
    """A ResNet in float32 with statistics that are not initial, and float64 gradients.

    SiLU instead of ReLU: an input so close to 0 that rounding changes its sign moves the gradient
    by more than the bound, whoever computes it.
    """
    torch.manual_seed(0)
    model = build_model("resnet56", 10, (3, 16, 16))
    for module in model.modules():
        for key, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, key, nn.SiLU())
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(4, 3, 16, 16))
    inputs, labels = torch.randn(2, 3, 16, 16), torch.arange(2)
    return _in_single(Problem(model.eval(), inputs, labels, cross_entropies))


@functools.cache
def _transformer() -> Solved:
    """A vision transformer in float32, and float64 gradients."""
    return _in_single(problem_of(CASES["vision transformer"], torch.float32))


def _in_single(problem: Problem) -> Solved:
    """A float32 problem with the gradients of its float64 copy; the mean one is the direction.

    A random direction would be so nearly orthogonal to every gradient that no bound could fail.
    """
    double = Problem(
        copy.deepcopy(problem.model).double(), problem.inputs.double(), problem.labels, problem.loss
    )
    gradients = gradients_one_by_one(double.model, double.inputs, double.labels, double.loss)
    means = {key: value / len(gradients) for key, value in sum_of(gradients).items()}
    return Solved(problem, gradients, means)


single_models = pytest.mark.parametrize("case", [_resnet, _transformer])


@single_models
def test_single_precision_is_within_its_bound(case: Callable[[], Solved]) -> None:
    found = case()
    first = {key: value.float() for key, value in found.direction.items()}
    assert_norms(per_sample_norm(*found.batch), found.gradients, SINGLE)
    assert_dots(per_sample_dot(*found.batch, first), found.gradients, found.direction, SINGLE)
    norms, dots = norm_and_dot(*found.batch, first)
    assert norms.dtype == dots.dtype == torch.float32
    assert_norms(norms, found.gradients, SINGLE)
    assert_dots(dots, found.gradients, found.direction, SINGLE)
    assert_sums(gradient_sum(*found.batch), found.gradients, SINGLE)


@single_models
def test_half_precision_is_within_its_bound(case: Callable[[], Solved]) -> None:
    found = case()
    first = {key: value.float() for key, value in found.direction.items()}
    norms, dots = norm_and_dot(*found.batch, first, precision="bf16")
    for each in (norms, per_sample_norm(*found.batch, precision="bf16")):
        assert each.dtype == torch.float32
        assert_norms(each, found.gradients, HALF)
    for each in (dots, per_sample_dot(*found.batch, first, precision="bf16")):
        assert each.dtype == torch.float32
        assert_dots(each, found.gradients, found.direction, HALF)
    sums = gradient_sum(*found.batch, precision="bf16")
    assert {value.dtype for value in sums.values()} == {torch.float32}
    assert_sums(sums, found.gradients, HALF)


def _half_in_the_middle(self: Any, inputs: Tensor) -> Tensor:
    return self.head(torch.tanh(self.layer(inputs.to(self.layer.weight.dtype))).to(self.kind))


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float64),
    ],
)
def test_parameters_of_several_precisions_are_within_the_bound_of_the_least(
    first: torch.dtype, last: torch.dtype
) -> None:
    case = applied(_half_in_the_middle, parts=lambda: {"layer": linear(), "head": linear(CLASSES)})
    exact = problem_of(case)
    exact.model.kind = torch.float64
    found = solve(exact)
    mixed = copy.deepcopy(exact.model)
    mixed.layer.to(first)
    mixed.head.to(last)
    mixed.kind = last
    batch = mixed, exact.inputs.float(), exact.labels
    mean = {key: value / BATCH for key, value in sum_of(found.gradients).items()}
    kinds = {name: p.dtype for name, p in mixed.named_parameters()}
    direction = {key: value.to(kinds[key]) for key, value in mean.items()}
    norms, dots = norm_and_dot(*batch, direction)
    assert norms.dtype == torch.promote_types(torch.promote_types(first, last), torch.float32)
    for each in (norms, per_sample_norm(*batch)):
        assert_norms(each, found.gradients, HALF)
    for each in (dots, per_sample_dot(*batch, direction)):
        assert_dots(each, found.gradients, mean, HALF)


def test_autocast_within_a_model_is_within_the_bound_of_half_precision() -> None:
    def forward(self: Any, inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.head(torch.tanh(self.layer(inputs))).float()

    case = applied(forward, parts=lambda: {"layer": linear(), "head": linear(CLASSES)})
    found = _in_single(problem_of(case, torch.float32))
    direction = {key: value.float() for key, value in found.direction.items()}
    norms, dots = norm_and_dot(*found.batch, direction)
    assert_norms(norms, found.gradients, HALF)
    for each in (dots, per_sample_dot(*found.batch, direction)):
        assert_dots(each, found.gradients, found.direction, HALF)


def test_a_norm_that_always_computes_in_single_precision_has_a_rule() -> None:
    case = headed((2, WIDTH), linear, lambda: LayerNormInFloat32(WIDTH))
    problem = problem_of(case, torch.float32)
    assert {each.path for each in coverage(problem.model, problem.inputs)} == {"rule"}
    found = _in_single(problem)
    assert_norms(per_sample_norm(*found.batch), found.gradients, SINGLE)


@single_models
def test_comparison_of_dots_in_half_precision_rejects_zeros(case: Callable[[], Solved]) -> None:
    found = case()
    with pytest.raises(AssertionError, match="above"):
        assert_dots(torch.zeros(len(found.gradients)), found.gradients, found.direction, HALF)


@single_models
def test_half_precision_is_not_single(case: Callable[[], Solved]) -> None:
    found = case()
    with pytest.raises(AssertionError, match="above"):
        assert_norms(per_sample_norm(*found.batch, precision="bf16"), found.gradients, SINGLE)


def _normalised_over_tokens(self: Any, inputs: Tensor) -> Tensor:
    return self.head(torch.tanh(self.norm(self.layer(inputs).mT)).flatten(1))


@pytest.mark.parametrize(
    "case",
    [
        applied(
            _normalised_over_tokens,
            (4, 32),
            parts=lambda: {
                "layer": linear(32, 32),
                "norm": nn.InstanceNorm1d(32),
                "head": linear(CLASSES, 128),
            },
        ),
        headed(
            (32, 2, 2), lambda: nn.Conv2d(32, 32, 1), lambda: nn.InstanceNorm2d(32, affine=True)
        ),
        headed((8, 4, 4), lambda: nn.BatchNorm2d(8), lambda: nn.InstanceNorm2d(8)),
    ],
    ids=["linear", "convolution", "batch norm"],
)
def test_gradients_that_nearly_cancel_keep_their_digits_in_single_precision(case: Case) -> None:
    problem = problem_of(case, torch.float32)
    offset = Problem(problem.model, problem.inputs + 100, problem.labels, problem.loss)
    found = _in_single(offset)
    assert_norms(gradients_in_single(found), found.gradients, SINGLE)  # so the loop keeps them
    assert_norms(per_sample_norm(*found.batch), found.gradients, SINGLE)


def gradients_in_single(found: Solved) -> Tensor:
    return norms_of(gradients_one_by_one(*found.batch))


# --- geometries and shapes ---


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Options of a convolution with their number of dimensions, and the shape of an image."""
    dims = draw(st.integers(1, 3))
    small = st.integers(1, 3)

    def each(values: st.SearchStrategy[int]) -> tuple[int, ...]:
        return draw(st.tuples(*[values] * dims))

    groups = draw(small)
    kernel, dilation, size = each(small), each(st.integers(1, 2)), each(st.integers(1, 6))
    mode = draw(st.sampled_from(["zeros", "zeros", "circular", "reflect", "replicate"]))
    options: dict[str, Any] = {
        "in_channels": groups * draw(small),
        "out_channels": groups * draw(small),
        "kernel_size": kernel,
        "dilation": dilation,
        "groups": groups,
        "bias": draw(st.booleans()),
        "padding_mode": mode,
    }
    if draw(st.integers(0, 3)) == 0:
        options |= {"padding": "same"}
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        assume(
            mode in {"zeros", "replicate"} or all(r < s for r, s in zip(reach, size, strict=True))
        )
    else:
        padding = each(st.integers(0, 2))
        options |= {"padding": padding, "stride": each(small)}
        assume(
            mode in {"zeros", "replicate"} or all(p < s for p, s in zip(padding, size, strict=True))
        )
        assume(
            all(
                s + 2 * p > d * (k - 1)
                for s, p, d, k in zip(size, padding, dilation, kernel, strict=True)
            )
        )
    return options, (options["in_channels"], *size)


@settings(properties, max_examples=12)
@given(geometry=convolutions(), seed=st.integers(0, 99))
def test_any_convolution_equals_the_batch_1_loop(
    geometry: tuple[dict[str, Any], tuple[int, ...]], seed: int
) -> None:
    options, shape = geometry
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(shape) - 2]
    found = solve(problem_of(headed(shape, lambda: kind(**options)), seed=seed))
    _assert_equals_the_loop(found)
    _assert_every_form_equals_the_loop(found)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_every_form_of_a_convolution_equals_the_batch_1_loop(name: str) -> None:
    _assert_every_form_equals_the_loop(solved(name))


def _assert_every_form_equals_the_loop(found: Solved) -> None:
    # In Gram form, one sample at a time, and by taps: one, two or all of them at a time.
    forms = ((True, 0, 1), (False, 0, 1), (False, 10**9, 1), (False, 10**9, 7), (False, 10**9, 99))
    for gram_pays, single_positions, tap_channels in forms:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rules.ConvUse, "_gram_pays", lambda self, delta, it=gram_pays: it)
            patch.setattr(rules, "SINGLE_POSITIONS", single_positions)
            patch.setattr(rules, "TAP_CHANNELS", tap_channels)
            patch.setitem(rules.WORKSPACE_BYTES, "cpu", 2048)  # several chunks of samples
            norms, dots = norm_and_dot(*found.batch, found.direction)
        assert_norms(norms, found.gradients)
        assert_dots(dots, found.gradients, found.direction)


@settings(properties, max_examples=15)
@given(
    tokens=st.lists(st.integers(1, 4), max_size=2),
    widths=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_linear_layer_equals_the_batch_1_loop(
    tokens: list[int], widths: tuple[int, int], bias: bool, seed: int
) -> None:
    case = headed((*tokens, widths[0]), lambda: nn.Linear(*widths, bias=bias))
    _assert_equals_the_loop(solve(problem_of(case, seed=seed)))


@settings(properties, max_examples=15)
@given(
    shape=st.lists(st.integers(1, 4), max_size=2),
    words=st.integers(7, 12),
    width=st.integers(1, 9),
    padding=st.none() | st.integers(-7, 6),
    seed=st.integers(0, 99),
)
def test_any_embedding_equals_the_batch_1_loop(
    shape: list[int], words: int, width: int, padding: int | None, seed: int
) -> None:
    case = headed(tuple(shape), lambda: nn.Embedding(words, width, padding), words=True)
    _assert_equals_the_loop(solve(problem_of(case, seed=seed)))


# --- bad input ---


def _calls(
    model: nn.Module, inputs: Tensor, labels: Tensor, **options: Any
) -> list[Callable[[], Any]]:
    """Every public function on one batch, not yet called."""
    one = {key: torch.ones_like(value) for key, value in parameters_of(model).items()}
    batch = (model, inputs, labels)
    return [
        lambda: per_sample_dot(*batch, one, **options),
        lambda: per_sample_norm(*batch, **options),
        lambda: norm_and_dot(*batch, one, **options),
        lambda: gradient_sum(*batch, **options),
    ]


@pytest.mark.parametrize("name", ["batch norm 1d", "batch norm 2d", "batch norm 2d not affine"])
def test_batch_statistics_are_refused(name: str) -> None:
    problem = problem_of(CASES[name])
    problem.model.train()
    for call in _calls(problem.model, problem.inputs, problem.labels):
        with pytest.raises(ScoringError, match=r"layer 'layers\.1' .* call model\.eval\(\)"):
            call()


@pytest.mark.parametrize(
    "name", ["dropout", "instance norm 2d with fixed statistics", "encoder layer"]
)
def test_layers_that_chance_or_the_call_changes_are_refused(name: str) -> None:
    problem = problem_of(CASES[name])
    problem.model.train()
    before = _state(problem.model)
    for call in _calls(problem.model, problem.inputs, problem.labels):
        with pytest.raises(ScoringError, match=r"in train mode.* call model\.eval\(\)"):
            call()
    assert _state(problem.model) == before


def test_a_model_that_mixes_the_samples_of_a_batch_is_refused() -> None:
    case = applied(
        lambda self, x: self.head(torch.tanh(self.layer(x - x.mean(0)))),
        parts=lambda: {"layer": linear(), "head": linear(CLASSES)},
    )
    problem = problem_of(case)
    direction = parameters_of(problem.model)
    batch = (problem.model, problem.inputs, problem.labels)
    for call in (
        lambda: per_sample_norm(*batch),
        lambda: per_sample_dot(*batch, direction),
        lambda: norm_and_dot(*batch, direction),
    ):
        with pytest.raises(ScoringError, match="each sample of a batch by itself"):
            call()


def _overwriting(self: Any, inputs: Tensor) -> Tensor:
    hidden = self.layer(inputs)
    outputs = self.head(hidden)
    hidden.mul_(3)
    return torch.tanh(outputs)


def test_an_input_overwritten_after_its_layer_is_an_error_as_in_training() -> None:
    case = applied(_overwriting, parts=lambda: {"layer": linear(), "head": linear(CLASSES)})
    problem = problem_of(case)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        solve(problem)
    with pytest.raises((RuntimeError, ScoringError), match=r"in-?place"):
        per_sample_norm(problem.model, problem.inputs, problem.labels)


def test_batch_norm_that_keeps_no_statistics_is_refused_in_eval_mode() -> None:
    model = nn.Sequential(linear(), nn.BatchNorm1d(WIDTH, track_running_stats=False)).eval()
    for call in _calls(model, torch.randn(BATCH, WIDTH), torch.zeros(BATCH, dtype=torch.long)):
        with pytest.raises(ScoringError, match="layer '1'"):
            call()


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y: F.cross_entropy(z, y),
        lambda z, y: F.cross_entropy(z, y, reduction="none")[:, None],
        lambda z, y: F.cross_entropy(z, y, reduction="none")[:-1],
        lambda z, y: F.cross_entropy(z, y)[None],
        lambda z, y: F.softmax(z, 1),
    ],
    ids=["reduced", "column", "too few", "reduced to one row", "one for each class"],
)
@pytest.mark.parametrize("name", ["only a linear head", "lstm"])
def test_a_loss_without_one_value_per_sample_is_refused(
    name: str, loss: Callable[[Tensor, Tensor], Tensor]
) -> None:
    for call in _calls(*solved(name).batch, loss=loss):
        with pytest.raises(ScoringError, match=r"one loss per sample.*reduction='none'"):
            call()


def test_a_reduced_loss_is_refused_for_one_sample_too() -> None:
    for call in _calls(*solved("batch of one").batch, loss=F.cross_entropy):
        with pytest.raises(ScoringError, match=r"one loss per sample.*reduction='none'"):
            call()


def test_direction_that_does_not_fit_names_the_tensors() -> None:
    model, inputs, labels = solved("only a linear head").batch
    misfit = {"weight": torch.zeros(3, 3), "typo": torch.zeros(1)}
    for call in (
        lambda: per_sample_dot(model, inputs, labels, misfit),
        lambda: norm_and_dot(model, inputs, labels, misfit),
    ):
        with pytest.raises(
            ScoringError, match=r"missing \['bias'\].*unknown \['typo'\].*weight.*3, 3\).*4, 6\)"
        ):
            call()


@pytest.mark.parametrize("wrong", [-1, CLASSES])
@pytest.mark.parametrize("row", [0, 2])
@pytest.mark.parametrize("name", ["only a linear head", "lstm"])
def test_labels_outside_the_head_are_refused(name: str, row: int, wrong: int) -> None:
    model, inputs, labels = solved(name).batch
    labels[row] = wrong
    for call in _calls(model, inputs, labels):
        with pytest.raises(ScoringError, match=r"within 0\.\.\.3"):
            call()


def test_a_model_with_nothing_to_train_is_refused() -> None:
    model, inputs, labels = (
        problem_of(CASES["only a linear head"]).model.requires_grad_(False),
        *(solved("only a linear head").batch[1:]),
    )
    for call in _calls(model, inputs, labels):
        with pytest.raises(ScoringError, match="trainable"):
            call()
