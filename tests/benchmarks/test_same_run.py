"""A clock counts each party's own time; what a run has found becomes a table."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import pytest

from benchmarks import same_run
from benchmarks.helpers import spt
from benchmarks.helpers.clock import Clock


@pytest.fixture
def now(monkeypatch):
    """Seconds of a processor that works where it is told to."""
    worked = [0.0]
    monkeypatch.setattr(time, "process_time", lambda: worked[0])
    return worked


def test_what_a_function_calls_counts_for_its_own_party(now):
    clock = Clock("rest", "unseen")

    def work(seconds, *then):
        now[0] += seconds
        for function in then:
            function()

    inner = clock.timed("inner", lambda: work(2))
    owner = SimpleNamespace(step=lambda: work(3, inner))
    clock.watch("outer", owner, ["step"])
    work(1, owner.step, clock.timed("unseen", owner.step))
    assert clock.stop() == {"rest": 1, "outer": 3, "inner": 2, "unseen": 5}
    work(4)
    assert clock.stop() == {"rest": 4}


def test_a_function_that_fails_counts_too(now):
    clock = Clock("rest", "unseen")

    def fail():
        now[0] += 2
        raise KeyError

    with pytest.raises(KeyError):
        clock.timed("failing", fail)()
    now[0] += 1
    assert clock.stop() == {"failing": 2, "rest": 1}


def test_a_line_for_each_callback_and_epoch():
    names = (same_run.OURS, *same_run.PROBES, same_run.RANK)
    seconds = {same_run.REST: 50.0, **dict.fromkeys(names, 2.0)}
    said = {**dict.fromkeys(same_run.PROBES, (0.75, 0.8, None)), same_run.OURS: (0.78, 0.77, 0.02)}
    part = {"said": said, "rank": 175.4, "seconds": seconds}
    run = {"before": 0.7, "epochs": [part] * 2, "held": dict.fromkeys(names, (2**20, None))}
    rows = {row[0]: row[1:] for row in same_run.rows_of([run, run])}
    assert len(rows) == 2 * len(names)
    ours = [1, "2.00 (4.0%)", "1.0", "78.0 78.0", "77.0 77.0", "+1.0 +1.0", "1.0", "2.0"]
    assert rows[f"{same_run.OURS}, epoch 2"] == ours
    assert rows["OnlineProbe, LARS, epoch 1"][3:] == ["75.0 75.0", "80.0 80.0", "-5.0 -5.0", "5.0", ""]
    assert rows["RankMe, epoch 1"][3] == "rank 175 175"


def test_nothing_is_measured_without_the_package(monkeypatch, capsys):
    monkeypatch.setattr(spt, "INSTALLED", False)
    monkeypatch.setattr(sys, "argv", ["same_run"])
    same_run.main()
    assert "stable-pretraining is not installed" in capsys.readouterr().out
