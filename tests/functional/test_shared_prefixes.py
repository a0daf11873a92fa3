"""Samples that begin with the same prompt: float32 must hold what tells them apart, not the prompt's rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ntps_lightning.functional.accumulate import accumulate_
from ntps_lightning.functional.moments import Moments
from ntps_lightning.functional.score import score_details
from ntps_lightning.functional.targets import read_labels
from tests.support.data import pad

D = 48
TOLERANCE = 2e-5
CURVES = ("curve", "captured_in_sample_curve", "null_curve", "captured_null_curve")


def prompted(rng, shared, side="right", n=600):
    """Hidden states of texts after ``shared`` tokens of a prompt: equal but for what the order of additions leaves."""
    prompt = 3 * rng.normal(size=D) + rng.normal(size=(shared, D))
    offsets = rng.normal(size=(3, D))
    labels = rng.integers(3, size=n)
    samples = []
    for label in labels:
        text = rng.normal(size=(rng.integers(6, 20), D)) + 0.5 * offsets[label] + 2
        text[1:] += 0.5 * text[:-1]
        samples.append(np.vstack([prompt * (1 + 1e-6 * rng.normal(size=prompt.shape)), text]))
    hidden, mask = pad(samples, side, filler=0)
    return hidden.float(), torch.tensor(labels), mask


def details(hidden, labels, mask, batch_size):
    moments = Moments.zeros(D, 3)
    for part in torch.arange(len(hidden)).split(batch_size):
        accumulate_(moments, hidden[part], read_labels(labels[part]), mask[part])
    return score_details(moments, k=4)


def worst(states, batch_size):
    """The largest difference to float64, relative, of all curves up to k = 10% of d."""
    hidden, labels, mask = states
    found, exact = details(hidden, labels, mask, batch_size), details(hidden.double(), labels, mask, 100)
    pairs = [(getattr(found, name)[:5], getattr(exact, name)[:5]) for name in CURVES]
    return max(float(((a - b) / b).abs().max()) for a, b in pairs)


def prompt(tokens):
    row = f"{tokens} tokens of a prompt that all samples share"
    note = "float32 products against float64, 2e-5 at any batch size, either padding"
    return pytest.param(tokens, marks=pytest.mark.compatibility("Precision", row, note))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("shared", [prompt(0), prompt(1), prompt(30), prompt(300)])
def test_a_shared_prompt_costs_no_precision(rng, shared, side):
    states = prompted(rng, shared, side)
    assert max(worst(states, batch_size) for batch_size in (1, 3, 8, 64, 600)) < TOLERANCE


@pytest.mark.parametrize("shared", [0, 30])
def test_bfloat16_states_count_as_their_values_do(rng, shared):
    hidden, labels, mask = prompted(rng, shared)
    assert max(worst((hidden.bfloat16(), labels, mask), batch_size) for batch_size in (8, 600)) < TOLERANCE


def test_the_order_of_samples_changes_nothing(rng):
    hidden, labels, mask = prompted(rng, 30)
    order = torch.randperm(len(hidden), generator=torch.Generator().manual_seed(0))
    assert worst((hidden[order], labels[order], mask[order]), 37) < TOLERANCE


def test_one_origin_for_all_steps_but_the_first_would_not_do(rng, monkeypatch):
    monkeypatch.setattr("ntps_lightning.functional.origins._shared_steps", lambda *_: [])
    assert worst(prompted(rng, 300), 600) > 10 * TOLERANCE
