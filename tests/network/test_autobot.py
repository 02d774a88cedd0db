"""AutoBot: its gates, what they cost, and where the search ends."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from network_cases import network, some_kept
from torch import Tensor, nn

from raydrop.data.batches import PreparedData, make_batches
from raydrop.errors import NetworkError
from raydrop.models import build_model
from raydrop.network import network_rule
from raydrop.network.base import Pruned, PruningTask, Step, Target
from raydrop.network.channels import rebuild
from raydrop.network.coupling import Coupling, Kept, LayerSize
from raydrop.network.cutting import cut_by_scores
from raydrop.network.measure import network_size
from raydrop.network.methods.autobot import (
    AutoBot,
    distance,
    gated,
    indecision,
    normalised_by,
    soft_size,
)
from raydrop.network.tracing import coupling_of
from raydrop.study import Training
from raydrop.training.budget import training_length
from raydrop.training.evaluate import predict
from raydrop.training.loop import train
from raydrop.training.losses import CrossEntropy

CPU = torch.device("cpu")
SHAPE = (3, 8, 8)


NETWORKS = ("mixed", "resnet56")


def as_gates(kept: Kept) -> Tensor:
    return torch.from_numpy(kept.astype(np.float64))


def autobot(**settings: float) -> AutoBot:
    """The method with its published settings but for some."""
    values = {"iterations": 200, "learning_rate": 0.6, "beta": 6.0, "gamma_h": 0.0}
    return AutoBot(**{**values, **settings})


# What gates cost and do.


@pytest.mark.parametrize("name", NETWORKS)
def test_closed_gates_cost_what_the_cut_network_is_measured_to_cost(name: str) -> None:
    """With all gates open, that is the network itself."""
    model = network(name)
    coupling, dense = coupling_of(model, SHAPE), network_size(model, SHAPE)
    chosen = [coupling.everything(), *(some_kept(coupling.groups, seed) for seed in range(3))]
    for number, kept in enumerate(chosen):
        cut = network_size(rebuild(model, coupling.channels(kept)), SHAPE)
        for measure in ("flops", "parameters"):
            found = soft_size(coupling, measure, 1, CPU)(as_gates(kept)).item()
            assert found == pytest.approx(cut.of(measure), rel=1e-12)  # type: ignore[arg-type]
            assert (cut.of(measure) < dense.of(measure)) == (number > 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NETWORKS)
def test_closed_gates_compute_what_the_cut_network_computes(name: str) -> None:
    model = network(name)
    coupling = coupling_of(model, SHAPE)
    images = torch.randn(3, *SHAPE, dtype=torch.float64)
    kept = some_kept(coupling.groups, 1)
    expected = rebuild(model, coupling.channels(kept))(images)
    plain = model(images)
    with gated(model, coupling, SHAPE) as gates:
        gates[:] = [torch.ones_like(as_gates(kept))]
        assert torch.equal(model(images), plain)
        gates[:] = [as_gates(kept)]
        torch.testing.assert_close(model(images), expected, rtol=1e-9, atol=1e-9)
    assert (expected - plain).abs().max() > 1e-3
    assert torch.equal(model(images), plain)


def test_a_soft_size_lies_in_between_and_has_the_gradient_of_differences() -> None:
    coupling = coupling_of(network("mixed"), SHAPE)
    size = soft_size(coupling, "flops", 1e4, CPU)
    gates = torch.rand(
        len(coupling.groups), dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    gates.requires_grad_()
    assert torch.autograd.gradcheck(size, gates, eps=1e-4)
    (slopes,) = torch.autograd.grad(size(gates), gates)
    assert (slopes > 0).all()
    assert size(torch.zeros_like(gates)) < size(gates) < size(torch.ones_like(gates))


def test_gates_come_behind_the_normalisation_that_follows() -> None:
    model = network("mixed")
    found = normalised_by(model, prunable_of(model), SHAPE)
    assert found == {
        "stem.0": "stem.1",
        "inner.0": "inner.1",
        "outer.0": "outer.1",
        "wide.0": "wide.1",
        "deep.0": "deep.1",
    }
    assert "last" in prunable_of(model)
    thinner = normalised_by(network("resnet56"), prunable_of(network("resnet56")), SHAPE)
    assert len(thinner) == 13
    assert thinner["blocks.5.second.0"] == "blocks.5.second.1"


def prunable_of(model: nn.Module, shape: tuple[int, int, int] = SHAPE) -> tuple[str, ...]:
    return coupling_of(model, shape).prunable


def test_distance_is_zero_at_the_target_and_one_at_both_ends() -> None:
    target, whole = 0.25, 0.9
    for cost, value, slope in (
        (0.9, 1.0, 1 / 0.65),
        (0.5, 0.25 / 0.65, 1 / 0.65),
        (0.25, 0.0, -4.0),
        (0.1, 0.6, -4.0),
        (0.0, 1.0, -4.0),
    ):
        point = torch.tensor(cost, dtype=torch.float64, requires_grad=True)
        found = distance(point, target, whole)
        found.backward()
        assert found.item() == pytest.approx(value)
        assert point.grad is not None
        assert point.grad.item() == pytest.approx(slope)


def test_indecision_is_the_distance_from_the_nearer_end() -> None:
    gates = torch.tensor([0.0, 1.0, 0.3, 0.8], requires_grad=True)
    indecision(gates).backward()
    assert indecision(gates).item() == pytest.approx(0.5 / 4)
    assert gates.grad is not None
    assert gates.grad[2:].tolist() == [0.25, -0.25]


# The search.


@pytest.fixture(scope="module")
def knowing(digits: PreparedData) -> nn.Module:
    """A network that knows digits."""
    torch.manual_seed(0)
    model = build_model("small_cnn", 10, digits.dataset.image_shape)
    training = Training(epochs=5, batch_size=24, learning_rate=0.1)
    count = len(digits.dataset.train)
    length = training_length("equal_epochs", training, count, count)
    batches = make_batches(digits, digits.dataset.train, CPU)
    train(model, batches, torch.arange(count), CrossEntropy(), training, length, 0, augment=True)
    return model


def task_of(
    digits: PreparedData, model: nn.Module, fraction: float = 0.75, measure: str = "flops"
) -> PruningTask:
    shape = digits.dataset.image_shape
    batches, count = make_batches(digits, digits.dataset.train, CPU), len(digits.dataset.train)

    def steps(n: int) -> Iterator[Step]:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        groups = order.repeat(1 + 32 * n // count)[: 32 * n].split(32)
        for images, labels in batches(groups):
            yield Step(images, labels, labels)

    return PruningTask(
        model,
        shape,
        Target(measure, fraction),  # type: ignore[arg-type]
        network_size(model, shape),
        steps,
        lambda logits, step: F.cross_entropy(logits, step.labels),
        seed=0,
    )


@pytest.fixture(scope="module")
def quartered(digits: PreparedData, knowing: nn.Module) -> Pruned:
    """What is left of it with a quarter of the multiply-accumulates."""
    return autobot().prune(task_of(digits, knowing))


@pytest.mark.parametrize(
    ("measure", "fraction"), [("flops", 0.75), ("flops", 0.9), ("parameters", 0.6)]
)
def test_the_search_converges_to_the_target(
    digits: PreparedData, knowing: nn.Module, quartered: Pruned, measure: str, fraction: float
) -> None:
    task = task_of(digits, knowing, fraction, measure)
    iterations = 200
    pruned = quartered if fraction == 0.75 else autobot().prune(task)
    facts = pruned.facts
    assert facts["target_size"] == pytest.approx(1 - fraction)
    assert facts["best_soft_size"] == pytest.approx(1 - fraction, rel=0.05)
    assert facts["soft_size"][0] > 0.8
    assert facts["soft_size"][-1] == pytest.approx(1 - fraction, rel=0.1)
    assert len(facts["soft_size"]) == len(facts["iterations"]) == 50
    assert facts["iterations"][-1] == iterations
    assert 0.6 * iterations <= facts["best_iteration"] < iterations
    assert 0 < facts["threshold"] < 1
    assert pruned.note == ""
    assert pruned.reached == pytest.approx(fraction, rel=0.02)
    assert network_size(pruned.model, task.image_shape) == pruned.size


def test_a_search_that_ends_too_high_is_repeated_with_a_larger_beta(
    digits: PreparedData, knowing: nn.Module
) -> None:
    task = task_of(digits, knowing, 0.9)
    coupling = coupling_of(knowing, task.image_shape)
    timid = autobot(iterations=60).search(task, coupling, 0.1, beta=3.0)
    assert timid.cost > 0.12
    assert autobot(iterations=60, beta=3.0).prune(task).facts["beta"] > 3


def test_it_beats_random_filters(
    digits: PreparedData, knowing: nn.Module, quartered: Pruned
) -> None:
    """In average accuracy at a quarter of the multiply-accumulates, before any retraining."""
    task, test = task_of(digits, knowing), digits.dataset.test
    batches = make_batches(digits, test, CPU)

    def accuracy(model: nn.Module) -> float:
        return float((predict(model, batches, len(test)) == test.labels).mean())

    at_random = []
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        scores = {
            name: torch.rand(knowing.get_submodule(name).out_channels, generator=generator)  # type: ignore[arg-type]
            for name in prunable_of(task.model, task.image_shape)
        }
        at_random.append(accuracy(cut_by_scores(task, scores).model))
    assert accuracy(quartered.model) > max(at_random) + 0.05


def test_weights_statistics_and_modes_stay_as_they_are(
    digits: PreparedData, knowing: nn.Module
) -> None:
    model = copy.deepcopy(knowing).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruned = autobot(iterations=20).prune(task_of(digits, model))
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(p.requires_grad for p in pruned.model.parameters())
    restored = rebuild(model, pruned.channels).state_dict()
    for name, value in pruned.model.state_dict().items():
        assert torch.equal(value, restored[name]), name
    for module in [*model.modules(), *pruned.model.modules()]:
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_the_same_task_gives_the_same_network(digits: PreparedData, knowing: nn.Module) -> None:
    method = autobot(iterations=15)
    first, again = (method.prune(task_of(digits, knowing)) for _ in range(2))
    assert first.channels == again.channels
    assert first.facts == again.facts
    torch.manual_seed(5)
    assert method.prune(task_of(digits, knowing)).facts == first.facts
    hastier = autobot(iterations=15, learning_rate=0.85).prune(task_of(digits, knowing))
    assert hastier.facts != first.facts


def test_channels_that_do_nothing_go_first(digits: PreparedData, knowing: nn.Module) -> None:
    """Every other channel is dead, and the loss is the distance from what the network says."""
    model = copy.deepcopy(knowing).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight[::2], module.bias[::2] = 0.0, 0.0
    task = task_of(digits, model)
    coupling = coupling_of(model, task.image_shape)
    live = np.arange(len(coupling.groups)) % 2 == 1  # widths are even
    fraction = 0.8 * (1 - coupling.size(live, "flops") / task.dense.macs)

    def loss(logits: Tensor, step: Step) -> Tensor:
        return 10 * F.mse_loss(logits, model(step.images).detach())

    task = dataclasses.replace(task, target=Target("flops", fraction), loss=loss)
    pruned = autobot(iterations=100).prune(task)
    gone = [
        channel
        for name, entry in pruned.channels["layers"].items()
        if name in coupling.prunable
        for channel in set(range(entry["out"]["of"])) - set(entry["out"]["kept"])
    ]
    assert len(gone) > 12
    assert np.mean([channel % 2 == 0 for channel in gone]) > 0.8  # some live ones do nothing either
    images = next(task.steps(1)).images
    expected = model(images)
    error = F.mse_loss(pruned.model.eval()(images), expected) / expected.var()
    assert error < 0.02


def test_indecision_counts_where_it_is_asked_for(digits: PreparedData, knowing: nn.Module) -> None:
    task = task_of(digits, knowing)
    coupling = coupling_of(knowing, task.image_shape)
    open_ended, decided = (
        autobot(iterations=100, gamma_h=gamma)
        .search(task, coupling, 0.25, beta=6.0)
        .logits.sigmoid()
        for gamma in (0.0, 3.0)
    )
    assert indecision(decided) < 0.5 * indecision(open_ended)


def test_a_network_below_its_target_loses_nothing(digits: PreparedData, knowing: nn.Module) -> None:
    task = task_of(digits, knowing, 0.5)
    larger = dataclasses.replace(task, dense=task.dense._replace(macs=3 * task.dense.macs))
    pruned = autobot(iterations=5).prune(larger)
    assert not pruned.channels
    assert pruned.facts["threshold"] is None
    assert pruned.note


def test_a_loss_that_is_not_finite_stops_the_search(
    digits: PreparedData, knowing: nn.Module
) -> None:
    task = task_of(digits, knowing)
    broken = dataclasses.replace(task, loss=lambda logits, step: logits.sum() * torch.nan)
    with pytest.raises(NetworkError, match="autobot, found nan in iteration 0"):
        autobot(iterations=5).prune(broken)


def test_a_single_iteration_is_enough_to_run(digits: PreparedData, knowing: nn.Module) -> None:
    pruned = autobot(iterations=1).prune(task_of(digits, knowing))
    assert pruned.facts["best_iteration"] == 0
    assert pruned.facts["iterations"] == [0, 1]
    assert pruned.reached == pytest.approx(0.75, rel=0.02)


def test_the_soft_size_is_the_formula_with_two_layers() -> None:
    """Three filters feed a layer of two: F = rest + p1 o1 + p2 o2 i2 + v2 o2."""
    size = soft_size(
        Coupling(
            groups=np.array([0, 0, 0, 1, 1]),
            owners={
                ("a", "out"): np.arange(3),
                ("b", "in"): np.arange(3),
                ("b", "out"): np.array([3, 4]),
            },
            layers={"a": LayerSize(3, 1, 0, 30, 0), "b": LayerSize(2, 3, 0, 60, 8)},
            rest_macs=0,
            rest_parameters=5,
            shortcuts={},
            convolutions=("a", "b"),
        ),
        "parameters", 1, CPU,
    )  # fmt: skip
    gates = torch.tensor([1.0, 0.5, 0.0, 0.25, 0.75], dtype=torch.float64)
    assert size(gates).item() == pytest.approx(5 + 30 * 0.5 + 60 * 0.5 * 0.5 + 8 * 0.5)


def test_its_published_settings_are_its_defaults() -> None:
    assert network_rule("autobot").name == "autobot"
    registered = network_rule("autobot").values
    assert network_rule("autobot").make().__dict__ == autobot(**registered).__dict__
    assert registered == {"iterations": 200, "learning_rate": 0.6, "beta": 6.0, "gamma_h": 0.0}
