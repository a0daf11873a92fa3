"""What is tested is refitted by scikit-learn; its errors are those of resampled texts."""

from __future__ import annotations

import pytest
import torch

from benchmarks import agreement, peers
from benchmarks.helpers.population import Population
from ntps_lightning import NextTokenPerceptionScore


def draw(seed, n, d=12, grouped=True):
    sample = Population(d).draw(n, torch.Generator().manual_seed(seed), grouped=grouped)
    return sample.states.float(), sample.targets.argmax(1), sample.groups


def test_the_error_of_a_ratio_is_its_spread_over_resampled_texts():
    generator = torch.Generator().manual_seed(0)
    texts = torch.arange(150).repeat_interleave(torch.randint(1, 5, (150,), generator=generator))
    bottom = torch.rand(len(texts), generator=generator, dtype=torch.float64) + 0.5
    top = bottom * (0.3 + 0.2 * torch.randn(150, generator=generator, dtype=torch.float64)[texts])
    value, se = agreement.ratio(top, bottom, texts)
    assert value == float(top.sum() / bottom.sum())
    sums = torch.stack([agreement.by_text(each, texts) for each in (top, bottom)])
    drawn = sums[:, torch.randint(150, (2000, 150), generator=generator)].sum(2)
    assert se == pytest.approx(float((drawn[0] / drawn[1]).std()), rel=0.1)


def test_left_out_and_tested_agree_where_texts_are_drawn_alike():
    train, test = draw(0, 600), draw(1, 3000)
    metric = NextTokenPerceptionScore(12, 5)
    tokens = torch.stack([train[0] + 1, train[0] - 1], 1)
    metric.update(tokens, train[1], group_ids=train[2])
    rows = [[10, 1, *row] for row in agreement.compare(metric.details().held_out, train, test, 5)]
    assert [row[2] for row in rows] == ["probe_r2", "probe_accuracy"]
    assert [line[-1] for line in agreement.rows_of("toy", rows)] == ["yes", "yes"]
    rows[0][4] -= 1
    assert [line[-1] for line in agreement.rows_of("toy", rows)] == ["NO", "yes"]


def test_a_probe_without_a_ridge_is_least_squares():
    train, test = draw(0, 200), draw(1, 300)
    (r2, _), (accuracy, _) = agreement.tested(train, test, 5, (1e-12, 1e-12))
    x, fresh = (torch.cat([s.double(), torch.ones(len(s), 1).double()], 1) for s in (train[0], test[0]))
    targets, wanted = (torch.eye(5, dtype=torch.float64)[labels] for labels in (train[1], test[1]))
    predicted = fresh @ torch.linalg.lstsq(x, targets).solution
    lost = (predicted - wanted).square().sum() / (wanted - targets.mean(0)).square().sum()
    assert r2 == pytest.approx(1 - float(lost))
    assert accuracy == pytest.approx(float((predicted.argmax(1) == test[1]).double().mean()))


def test_each_method_says_an_accuracy():
    states, labels, texts = draw(0, 300)
    tokens = torch.stack([states + 1, states - 1], 1)
    train = (tokens, torch.ones(300, 2, dtype=torch.long), labels, texts)
    fresh = draw(1, 300)
    test = (fresh[0], None, fresh[1], fresh[2])
    few = peers.draw(train, 100, 0)
    assert [len(column) for column in few] == [100] * 4
    assert set(few[3].tolist()) < set(texts.tolist())
    for name, method in peers.METHODS.items():
        if method is peers.online_probe:
            continue
        seconds, peak, said, true, error = peers.measure(method, train, test)
        assert seconds > 0
        assert abs(said - true) < 0.15
        assert (error is None) == (method is not peers.ours)
        assert peers.rows_of(name, 300, [(seconds, peak, said, true, error)])[0] == f"{name}, n=300"
