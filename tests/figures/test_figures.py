from __future__ import annotations

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from ntps_lightning import NextTokenPerceptionScore
from ntps_lightning.figures import curve_figure, log_figure
from ntps_lightning.functional.accumulate import batch_moments
from ntps_lightning.functional.score import score_details
from tests.support.data import pad, sequences


@pytest.fixture
def details(rng):
    samples, labels = sequences(rng)
    hidden, mask = pad(samples)
    return score_details(batch_moments(hidden, torch.tensor(labels), mask))


def test_a_figure_shows_the_score_with_null_and_baseline(details):
    for before, lines in ((None, 3), (details, 4)):
        left, right = curve_figure(details, before).axes
        assert right.get_title() == "NTPS"
        assert len(right.lines) == lines
        assert left.texts[0].get_text() == "nothing held out"
    assert list(right.lines[-2].get_ydata()) == details.curve.tolist()


def test_held_out_numbers_have_bands_of_two_standard_errors(rng):
    samples, labels = sequences(rng)
    hidden, mask = pad(samples)
    metric = NextTokenPerceptionScore(hidden.shape[-1], max(labels) + 1)
    metric.update(hidden, torch.tensor(labels), mask)
    found = metric.details()
    left, _ = curve_figure(found, found).axes
    names = [line.get_label() for line in left.lines]
    now = left.lines[names.index("autoregressive directions, now")]
    curve = found.held_out.curves["captured_r2"]
    assert list(now.get_xdata()) == list(curve)
    assert list(now.get_ydata()) == [value for value, _ in curve.values()]
    (band, *_) = [each for each in left.collections if len(each.get_paths()[0]) > 4][::-1]
    edges = {round(float(y), 9) for y in band.get_paths()[0].vertices[:, 1]}
    wanted = {round(value + sign * 2 * se, 9) for value, se in curve.values() for sign in (-1, 1)}
    assert edges == wanted
    assert found.held_out.probe_r2.value in left.lines[0].get_ydata()


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
