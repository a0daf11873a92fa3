"""What `make dist` has mypy and pyright read beside the installed wheel: three uses, and three errors to be found.

Each error is marked as expected, and a mark that nothing needs is itself an error.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

import torch
from torch import nn

from ntps_lightning import NextTokenPerceptionScore, NTPSCallback, NTPSMonitor
from ntps_lightning.functional import NTPSDetails

callback = NTPSCallback(3, layers=[8, -1], k=0.05, accumulate_device="cpu")
NTPSCallback(on_error="ignore")  # type: ignore[arg-type]


def score(model: nn.Module, ids: torch.Tensor, labels: torch.Tensor) -> float:
    """Of the highest layer."""
    monitor = NTPSMonitor(model, layers="all", num_classes=3, pooling="last")
    with monitor.batch(labels, input_ids=ids):
        model(input_ids=ids)
    details: dict[int, NTPSDetails] = monitor.compute()
    monitor.compute(whole="curve")  # type: ignore[call-arg]
    return details[max(details)].score


metric = NextTokenPerceptionScore(hidden_size=16, num_classes=3, ridge=0.1)
metric.update(torch.randn(4, 5, 16), torch.tensor([0, 1, 2, 0]))
share: float = metric.details().captured_in_sample
word: str = metric.details().captured_in_sample  # type: ignore[assignment]
