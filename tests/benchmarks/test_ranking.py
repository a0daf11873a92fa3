"""The truth that ranks are held against is the population's, and a toy cell runs."""

from __future__ import annotations

import pytest
import torch

from benchmarks import ranking
from benchmarks.calibration import Truth
from benchmarks.helpers.population import Population


@pytest.mark.parametrize(
    "cell",
    [
        ranking.Cell(60, 8, 4),
        ranking.Cell(60, 8, None),
        ranking.Cell(60, 8, 4, paired=False),
        ranking.Cell(60, 8, None, depths=(1, 3)),
    ],
)
def test_a_toy_cell_is_measured(cell):
    found = ranking.measure(cell, 4)
    assert set(found) == {"best in set", "size of set", "all ranks", "too high", "foretold"}
    assert 0 <= found["best in set"] <= 1
    assert 1 <= found["size of set"] <= ranking.LAYERS
    assert found["foretold"] > 0


def test_paired_layers_share_their_errors_and_others_do_not():
    """Two views that show the same: the difference is nothing where they are paired."""
    population = Population(8)
    for paired in (True, False):
        cell = ranking.Cell(200, 8, 6, paired)
        estimates, own = ranking.redraw(cell, population, Truth(population, 1), 5)
        first, last = estimates[0], estimates[-1]
        assert (first.minus(last).se < 0.5 * first.se) == paired
        assert len(set(own)) == ranking.LAYERS


def test_equal_layers_differ_by_their_noise_alone():
    sample = Population(8).draw(5000, torch.Generator().manual_seed(0))
    one, two = (ranking.noisy(sample.states, seed) for seed in (0, 1))
    noise = (one - sample.states) / sample.states.std(0)
    assert torch.allclose(noise.std(0), torch.ones(8).double(), atol=0.05)
    assert not torch.equal(one, two)


def test_the_best_of_several_layers_is_higher_than_what_they_read_on_average():
    """Models of one layer and of three in turn, all equally good."""
    cell = ranking.Cell(60, 8, None, depths=(1, 3))
    population = Population(8)
    drawn = [ranking.redraw(cell, population, Truth(population, 1), seed) for seed in range(20)]
    values = torch.tensor([[each.value for each in estimates] for estimates, _ in drawn]).mean(0)
    assert values[1::2].min() > values[::2].max()
    assert len({own for _, truths in drawn for own in truths}) == 20
