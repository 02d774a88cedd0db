"""Masking single weights: exact sparsity, the lowest first, zeros that stay."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from network_cases import CLASSES, SHAPES, batches, images, network, task_of
from reference import masks_by_sorting
from torch import Tensor, nn

from raydrop.errors import ConfigError, NetworkError
from raydrop.network import METHODS, network_rule
from raydrop.network.base import PruningTask
from raydrop.network.masks import apply_masks, combined_masks, mask_by_scores
from raydrop.network.measure import network_size, weights_of
from raydrop.network.methods.scored import summed_changes

SHAPE = SHAPES["small_cnn"]
UNSTRUCTURED = [name for name in METHODS if name.startswith("unstructured")]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return network("small_cnn")


def _task(model: nn.Module, sparsity: float, seed: int = 0) -> PruningTask:
    return task_of(model, SHAPE, sparsity, structured=False, seed=seed)


def _scores(model: nn.Module, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(weight.shape, generator=generator, dtype=torch.float64)
        for name, weight in weights_of(model).items()
    }


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.75, 0.9375, 1e-9])
@pytest.mark.parametrize("method", UNSTRUCTURED)
def test_the_sparsity_is_exact_to_one_weight(
    model: nn.Module, method: str, sparsity: float
) -> None:
    task = _task(model, sparsity)
    pruned = network_rule(method).make().prune(task)
    assert abs(task.dense.weights * (1 - sparsity) - pruned.size.weights) <= 0.5
    assert pruned.size == network_size(pruned.model, SHAPE)
    assert pruned.size[:2] == task.dense[:2]  # masks change neither MACs nor parameters
    assert pruned.reached == 1 - pruned.size.weights / task.dense.weights
    assert pruned.note == ""
    assert pruned.channels == {}


@pytest.mark.parametrize("method", UNSTRUCTURED)
def test_masked_weights_are_zero_and_all_else_stays(model: nn.Module, method: str) -> None:
    pruned = network_rule(method).make().prune(_task(model, 0.7))
    assert set(pruned.masks) == set(weights_of(model))
    before, after = model.state_dict(), pruned.model.state_dict()
    assert list(before) == list(after)  # no reparametrisation is left
    copy.deepcopy(pruned.model)
    for name, value in before.items():
        mask = pruned.masks.get(name, torch.ones_like(value, dtype=torch.bool))
        assert torch.equal(after[name], torch.where(mask, value, torch.zeros_like(value))), name


@pytest.mark.parametrize("sparsity", [0.5, 0.97])
def test_the_lowest_weights_go_first(model: nn.Module, sparsity: float) -> None:
    scores = _scores(model)
    scores["features.2.0.weight"] *= 1e-3  # the layer would vanish
    task = _task(model, sparsity)
    pruned = mask_by_scores(task, scores)
    flat = {name: each.flatten().tolist() for name, each in scores.items()}
    expected = masks_by_sorting(flat, round(task.dense.weights * sparsity))
    for name, mask in pruned.masks.items():
        assert mask.flatten().tolist() == expected[name], name
    assert pruned.masks["features.2.0.weight"].any()


def test_magnitude_is_the_absolute_value(model: nn.Module) -> None:
    task = _task(model, 0.6)
    pruned = network_rule("unstructured_magnitude").make().prune(task)
    flat = {name: each.abs().flatten().tolist() for name, each in weights_of(model).items()}
    expected = masks_by_sorting(flat, round(task.dense.weights * 0.6))
    assert all(m.flatten().tolist() == expected[name] for name, m in pruned.masks.items())


def test_taylor_scores_are_derivatives_by_a_factor_on_each_weight(model: nn.Module) -> None:
    """|dL/dg| of a weight multiplied by g, by central differences, summed over batches."""
    task = _task(model, 0.5)
    scores = summed_changes(task, 2, torch.abs)
    for name, place in (("features.2.0.weight", (3, 1, 0, 2)), ("head.weight", (1, 5))):
        total = 0.0
        for batch in batches(SHAPE, 2):
            sides = []
            for factor in (1 + 1e-5, 1 - 1e-5):
                changed = copy.deepcopy(model)
                with torch.no_grad():
                    changed.get_parameter(name)[place] *= factor
                    sides.append(float(task.loss(changed(batch.images), batch)))
            total += abs(sides[0] - sides[1]) / 2e-5
        assert float(scores[name][place]) == pytest.approx(total, rel=1e-4, abs=1e-10)


def test_equal_scores_go_in_a_seeded_order(model: nn.Module) -> None:
    def masks(seed: int) -> Tensor:
        pruned = mask_by_scores(
            _task(model, 0.5, seed), {n: torch.ones_like(w) for n, w in weights_of(model).items()}
        )
        return torch.cat([mask.flatten() for mask in pruned.masks.values()])

    first, again, other = masks(0), masks(0), masks(1)
    assert torch.equal(first, again)
    # Two random halves agree on half of the weights: 7,000 of them, so 5 sigma are 3 %.
    assert (first == other).double().mean() == pytest.approx(0.5, abs=0.03)


def test_weights_that_are_zero_go_first(model: nn.Module) -> None:
    """What an earlier round masked stays masked, and counts."""
    dense = network_size(model, SHAPE)
    for method in UNSTRUCTURED:
        first = network_rule(method).make().prune(_task(model, 0.5))
        later = task_of(first.model, SHAPE, 0.75, structured=False, dense=dense, seed=5)
        second = network_rule(method).make().prune(later)
        assert abs(dense.weights * 0.25 - second.size.weights) <= 0.5
        assert all(not (second.masks[n] & ~m).any() for n, m in first.masks.items()), method


def test_every_layer_keeps_a_weight(model: nn.Module) -> None:
    pruned = network_rule("unstructured_magnitude").make().prune(_task(model, 0.9999))
    assert all(mask.sum() == 1 for mask in pruned.masks.values())
    assert "sparsity(0.9999) could not be reached exactly" in pruned.note
    assert f"{pruned.reached:.6f}" in pruned.note


def test_masks_outlast_decay_and_momentum(model: nn.Module) -> None:
    pruned = network_rule("unstructured_magnitude").make().prune(_task(model, 0.8))
    trained = copy.deepcopy(pruned.model).train()
    optimiser = torch.optim.SGD(trained.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for batch in batches(SHAPE, 3):
        optimiser.zero_grad()
        F.cross_entropy(trained(batch.images), batch.labels).backward()
        optimiser.step()
    assert network_size(trained, SHAPE).weights > pruned.size.weights  # training revives them
    apply_masks(trained, pruned.masks)
    assert network_size(trained, SHAPE) == pruned.size
    assert not torch.equal(trained(images(SHAPE, 2)), pruned.model(images(SHAPE, 2)))


def test_combined_masks_keep_what_both_keep() -> None:
    first = {"a": torch.tensor([True, False, True])}
    second = {"a": torch.tensor([True, True, False]), "b": torch.tensor([False])}
    both = combined_masks(first, second)
    assert {name: mask.tolist() for name, mask in both.items()} == {
        "a": [True, False, False],
        "b": [False],
    }


def test_bad_scores_are_refused(model: nn.Module) -> None:
    task = _task(model, 0.5)
    broken = _scores(model)
    broken["head.weight"][0, 0] = torch.nan
    with pytest.raises(NetworkError, match=r"every weight of head.weight, found NaN"):
        mask_by_scores(task, broken)
    with pytest.raises(NetworkError, match=r"for head.weight, found none"):
        mask_by_scores(task, {n: s for n, s in _scores(model).items() if n != "head.weight"})
    with pytest.raises(NetworkError, match=r"found flops\(0.5\)"):
        mask_by_scores(task_of(model, SHAPE, 0.5), _scores(model))


@pytest.mark.parametrize("target", [0.0, 1.0, -0.5, 1.5, "nan"])
def test_targets_lie_within_zero_and_one(model: nn.Module, target: float | str) -> None:
    with pytest.raises(ConfigError, match=r"in \(0, 1\)"):
        task_of(model, SHAPE, target, structured=False)


def test_measured_sizes(model: nn.Module) -> None:
    """A 3x3 and a 1x1 convolution and a linear layer, counted by hand."""
    plain = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 3, 1, bias=False), nn.Flatten()
    )
    plain.append(nn.Linear(3 * 64, CLASSES))
    plain[1].train(False)
    size = network_size(plain, (1, 8, 8))
    assert size.macs == 64 * 9 * 2 + 64 * 2 * 3 + 192 * CLASSES
    assert size.parameters == 20 + 6 + 193 * CLASSES
    assert size.weights == 18 + 6 + 192 * CLASSES
    assert [module.training for module in plain] == [True, False, True, True]
