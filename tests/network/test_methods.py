"""The scores of methods that remove channels, against slow twins and differences."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from network_cases import SHAPES, batches, network, task_of
from reference import distances_by_loop, filter_norms_by_loop
from torch import Tensor

from raydrop.network import network_rule
from raydrop.network.methods.scored import (
    distances_to_others,
    filter_norms,
    relative_to_mean,
    squared_change,
    summed_changes,
)
from raydrop.network.methods.taylor import filter_changes


@pytest.mark.parametrize("norm", [1.0, 2.0])
def test_norms_of_filters(norm: float) -> None:
    weight = torch.randn(5, 3, 2, 2, dtype=torch.float64)
    assert filter_norms(weight, norm).tolist() == pytest.approx(filter_norms_by_loop(weight, norm))


def test_distances_to_the_other_filters() -> None:
    weight = torch.randn(5, 3, 2, 2, dtype=torch.float64)
    assert distances_to_others(weight).tolist() == pytest.approx(distances_by_loop(weight))


def test_scores_relative_to_their_layer_have_mean_one() -> None:
    assert relative_to_mean(torch.tensor([1.0, 3.0])).tolist() == [0.5, 1.5]
    assert relative_to_mean(torch.zeros(2)).tolist() == [0.0, 0.0]


def test_taylor_scores_are_squared_derivatives_by_a_factor_on_each_filter() -> None:
    """d L(g w_i) / dg at g = 1, by central differences, squared and averaged over batches."""
    task = task_of(network("small_cnn"), SHAPES["small_cnn"], 0.5)
    scores = summed_changes(task, 2, squared_change)["features.2.0.weight"] / 2
    step = 1e-5
    for index in (0, 7):
        squares = []
        for batch in batches(task.image_shape, 2):
            sides = []
            for factor in (1 + step, 1 - step):
                model = copy.deepcopy(task.model)
                with torch.no_grad():
                    model.get_parameter("features.2.0.weight")[index] *= factor
                    sides.append(float(task.loss(model(batch.images), batch)))
            squares.append(((sides[0] - sides[1]) / (2 * step)) ** 2)
        assert float(scores[index]) == pytest.approx(np.mean(squares), rel=1e-5)


def test_activation_scores_are_derivatives_by_a_factor_on_each_map() -> None:
    """|dL/dg| of a map multiplied by g, by central differences, averaged over samples."""
    torch.manual_seed(0)
    activation = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    mix = torch.randn(2, 4, 4, dtype=torch.float64)

    def loss(values: Tensor) -> Tensor:
        return (values * mix).sum((1, 2, 3)).tanh().mean()

    loss(activation).backward()
    assert activation.grad is not None
    found = filter_changes(activation, activation.grad)
    for channel in range(2):
        changes = []
        for sample in range(3):
            sides = []
            for step in (1e-5, -1e-5):
                factor = torch.ones(3, 2, 1, 1, dtype=torch.float64)
                factor[sample, channel] += step
                sides.append(float(loss(activation.detach() * factor)))
            changes.append(abs(sides[0] - sides[1]) / 2e-5)
        assert float(found[channel]) == pytest.approx(np.mean(changes), rel=1e-6)


def test_activation_rounds_remove_equal_shares() -> None:
    task = task_of(network("resnet56"), SHAPES["resnet56"], 0.75)
    pruned = network_rule("taylor_activation(rounds=3, steps=1)").make().prune(task)
    assert pruned.facts["course"] == pytest.approx([0.25, 0.5, 0.75], abs=0.01)
