"""What stands beside a layer's numbers, and what does not where they say nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ntps_lightning import NextTokenPerceptionScore
from ntps_lightning.functional.held_out import GRID
from ntps_lightning.prescreening.numbers import layer_numbers


def details(signal, n=40, d=12, classes=2):
    """Of balanced classes that states tell of as much."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(n) % classes
    states = torch.randn(n, 6, d, generator=generator)
    states[:, :, 0] += signal * labels[:, None]
    metric = NextTokenPerceptionScore(d, classes)
    metric.update(states, labels)
    return metric.details(estimators=True)


def test_a_probe_that_reads_nothing_has_no_accuracy_to_show():
    found = layer_numbers(0, details(0.0))
    assert found.reads_nothing
    assert found.probe_accuracy.value < 0.4, "left out, a row of balanced classes is told to be of the other"
    assert found.accuracy is None
    assert any(remark.startswith("accuracy is not shown") for remark in found.remarks)


def test_one_that_reads_has_it():
    found = layer_numbers(0, details(4.0))
    assert not found.reads_nothing
    assert found.accuracy == (found.probe_accuracy.value, found.probe_accuracy.se)
    assert not any(remark.startswith("accuracy") for remark in found.remarks)


@pytest.mark.parametrize(("n", "sizes"), [(250, [500]), (260, [520]), (500, [1000]), (490, [])])
def test_what_is_expected_is_of_more_labels_than_are_there(n, sizes):
    """Of 250 and 500 texts the largest fit has 200 and 400, and tells of four times that; of 490, 200 of 980 not."""
    found = layer_numbers(0, details(2.0, n))
    curve = details(2.0, n).held_out.learning_curve
    assert found.expected == {size: curve.predict_accuracy(size) for size in sizes}


def test_numbers_that_are_missing_are_not_made_up():
    found = replace(details(2.0), rankme=None)
    with pytest.raises(ValueError, match=r"layer 3 has no RankMe or no LogME: compute details with estimators=True"):
        layer_numbers(3, found)


def test_one_whose_ridge_is_the_highest_has_not():
    loud = details(4.0)
    silenced = replace(loud, held_out=replace(loud.held_out, ridges=(GRID[3], GRID[-1])))
    assert layer_numbers(0, silenced).accuracy is None
    other_end = replace(loud, held_out=replace(loud.held_out, ridges=(GRID[0], GRID[3])))
    assert layer_numbers(0, other_end).accuracy is not None
