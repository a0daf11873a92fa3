"""Launched by `test_same_bits.py` with OUT STRATEGY: every kind of run with and without us, in two processes."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tests.callback.distributed_run import RANK, FSDP2Module, module_and_strategy
from tests.callback.kinds import KINDS, outcome


def sharded(module: Any) -> Any:
    """The same module, whose model FSDP 2 shards."""
    kind = type(module)
    module.__class__ = type(kind.__name__, (kind,), {"configure_model": FSDP2Module.configure_model})
    return module


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    out, strategy = Path(sys.argv[1]), sys.argv[2]
    notes: dict[str, Any] = {}
    dressed = sharded if strategy == "fsdp2" else lambda module: module
    settings = lambda: {"strategy": module_and_strategy(strategy, "sampler")[1], "devices": 2}  # noqa: E731
    for name, kind in KINDS.items():
        try:
            notes[name] = asdict(outcome(kind, out, dressed, settings))
        except Exception as error:
            notes[name] = {"error": repr(error)}
    (out / f"rank{RANK}.json").write_text(json.dumps(notes))


if __name__ == "__main__":
    main()
