from __future__ import annotations

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from ntps_lightning.figures import curve_figure, log_figure
from ntps_lightning.functional.accumulate import batch_moments
from ntps_lightning.functional.score import score_details
from tests.support.data import pad, sequences


@pytest.fixture
def details(rng):
    samples, labels = sequences(rng)
    hidden, mask = pad(samples)
    return score_details(batch_moments(hidden, torch.tensor(labels), mask))


def test_a_figure_shows_both_geometries_with_null_and_baseline(details):
    for before, lines in ((None, 3), (details, 4)):
        left, right = curve_figure(details, before).axes
        assert (left.get_title(), right.get_title()) == ("NTPS", "captured, in-sample")
        assert len(left.lines) == len(right.lines) == lines
    assert list(left.lines[2].get_ydata()) == details.curve.tolist()
    assert list(right.lines[0].get_ydata()) == details.captured_null_curve.tolist()


def test_loggers_take_figures_or_say_that_they_cannot(details, tmp_path):
    class Images:
        def log_image(self, **arguments):
            self.arguments = arguments

    images = Images()
    figure = curve_figure(details)
    assert log_figure(images, "tag", figure, 3)
    assert images.arguments == {"key": "tag", "images": [figure], "step": 3}
    assert log_figure(TensorBoardLogger(tmp_path), "tag", figure, 3)
    assert not log_figure(CSVLogger(tmp_path), "tag", figure, 3)
