"""Launched by `test_side_sets.py` with OUT STRATEGY: trains with a side set, and notes each rank's values."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from ntps_lightning import NTPSCallback
from tests.callback.distributed_run import RANK, module_and_strategy
from tests.callback.kinds import whole
from tests.support.models import loader, make_trainer, samples

# Odd, so that ranks have other numbers of batches, one of which another only repeats.
ROWS = [{"input_ids": ids, "label": "abc"[label]} for ids, label in samples(85, seed=3)]


def fit(out: Path, strategy: str, callbacks: list[Any]) -> list[Any]:
    kind, how = module_and_strategy(strategy, "sampler")
    torch.manual_seed(0)
    trainer = make_trainer(out, callbacks=callbacks, strategy=how, devices=1 if strategy == "one" else 2)
    module = kind()
    trainer.fit(module, loader())
    return [whole(weight) for weight in module.parameters()]


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    out, strategy = Path(sys.argv[1]), sys.argv[2]
    callback = NTPSCallback(data=ROWS, max_tokens=200)
    without, with_it = fit(out, strategy, []), fit(out, strategy, [callback])
    same = all(torch.equal(a, b) for a, b in zip(without, with_it, strict=True))
    (out / f"rank{RANK}.json").write_text(json.dumps({"history": callback.history, "same": same}))


if __name__ == "__main__":
    main()
