from __future__ import annotations

import pytest
import torch

from ntps_lightning import NextTokenPerceptionScore
from ntps_lightning.functional.moments import moment_shapes
from ntps_lightning.memory import MemoryEstimate, state_bytes


@pytest.mark.parametrize(("hidden_size", "num_classes"), [(16, 3), (64, 1000)])
def test_every_state_of_the_metric_is_counted(hidden_size, num_classes):
    metric = NextTokenPerceptionScore(hidden_size, num_classes)
    states = [getattr(metric, name) for name in moment_shapes(hidden_size, num_classes)]
    assert state_bytes(2, hidden_size, num_classes) == 2 * sum(state.numel() * state.itemsize for state in states)


def test_what_there_is_no_room_for_is_refused(monkeypatch):
    estimate = MemoryEstimate(num_layers=3, hidden_size=16, num_outputs=0, device=torch.device("cpu"))
    assert "at d = 16, C = ?" in str(estimate)
    estimate.check()
    monkeypatch.setattr("ntps_lightning.memory.available_bytes", lambda device: 2**20)
    with pytest.raises(ValueError, match="not even one layer fits"):
        estimate.check()
    monkeypatch.setattr("ntps_lightning.memory.available_bytes", lambda device: None)
    estimate.check()
