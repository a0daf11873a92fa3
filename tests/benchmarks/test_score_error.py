"""The score of a fixed rest is the package's; its null has the mean of the closed form; the tables have their rows."""

from __future__ import annotations

import pytest
import torch

from benchmarks import score_error
from ntps_lightning.functional.accumulate import batch_moments
from ntps_lightning.functional.score import score_details


def test_the_score_and_the_mean_of_its_null_are_the_packages():
    moments = batch_moments(*score_error.Tokens(16, 0.1).draw(300, 0), num_classes=5)
    fixed = score_error.Fixed(moments, 0.1)
    details = score_details(moments)
    assert fixed.k == details.k
    assert fixed.score(fixed.cov.cross) == pytest.approx(details.score, rel=1e-5)
    assert float(fixed.null(400).mean()) == pytest.approx(details.null, abs=0.03)


def test_noise_has_the_covariance_that_is_asked_for():
    fixed = score_error.Fixed(batch_moments(*score_error.Tokens(4, 0.1).draw(50, 0), num_classes=5), 0.1)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([fixed.noise(fixed.targets, generator).flatten() for _ in range(20_000)])
    wanted = torch.kron(fixed.cov.perception, fixed.targets) / 50
    assert torch.allclose(drawn.T @ drawn / len(drawn), wanted, atol=float(0.05 * wanted.diagonal().max()))


def test_the_tables_have_their_rows():
    (row,) = score_error.uniform_rows(8, (60,), 40, 40)
    assert 0 <= float(row[2]) <= 0.3
    (row,) = score_error.bootstrap_rows(8, (60,), (0.3,), 8, 8)
    assert float(row[3]) > 0
    assert row[-1] in ("yes", "NO")
