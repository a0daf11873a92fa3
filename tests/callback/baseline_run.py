"""Launched by `test_strategies.py` with OUT STRATEGY: trains with and without us, and notes each rank's baseline."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch.distributed.fsdp import fully_shard

from ntps_lightning import NTPSCallback
from tests.callback.distributed_run import RANK, module_and_strategy
from tests.support.models import LoraModule, loader, make_trainer


class FullySharded(LoraModule):
    """All weights train; those outside of the layers stay gathered after a forward pass."""

    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]
        self.model.requires_grad_(True)
        for layer in self.model.base_model.model.model.layers:
            fully_shard(layer, mesh=mesh, reshard_after_forward=False)
        fully_shard(self.model, mesh=mesh)


class Overwriting(LoraModule):
    """One rank alone sees that a weight was written to."""

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if RANK == 1:
            weight = self.model.base_model.model.model.layers[0].mlp.up_proj.weight
            with torch.no_grad():
                (weight.to_local() if hasattr(weight, "to_local") else weight).mul_(1.0)


class Failing(LoraModule):
    """The last call of the validation cannot be made again, and ends in the midst of it."""

    def __init__(self) -> None:
        super().__init__()
        self.model.base_model.model.model.layers[1].mlp.register_forward_pre_hook(self.fail)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.batch_idx = batch_idx
        super().validation_step(batch, batch_idx)

    def fail(self, module, args):
        if self.trainer.sanity_checking and self.trainer.global_step > 0 and self.batch_idx == 3:
            raise ZeroDivisionError("once too often")


def setup(name: str) -> tuple[type[LoraModule], Any]:
    name, _, kind = name.partition("-")
    module, strategy = module_and_strategy(name.removesuffix("_full"), "sampler")
    module = FullySharded if name == "fsdp2_full" else module
    other = {"overwriting": Overwriting, "failing": Failing}.get(kind)
    return module if other is None else type("Both", (other, module), {}), strategy


class Watch(Callback):
    """Every loss of a run, and its weights at the end."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen += [outputs["loss"].detach().clone(), torch.get_rng_state()]

    def on_validation_end(self, trainer, pl_module):
        self.seen += [v.clone() for k, v in sorted(trainer.callback_metrics.items()) if not k.startswith("ntps")]

    def on_train_end(self, trainer, pl_module):
        weights = (weight.detach() for weight in pl_module.parameters())
        self.seen += [(w.to_local() if hasattr(w, "to_local") else w).clone() for w in weights]


def main() -> None:
    torch.set_num_threads(1)
    out, name = Path(sys.argv[1]), sys.argv[2]
    runs, validated, callback = [], NTPSCallback(layers=[1, -1]), NTPSCallback(layers=[1, -1])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module, strategy = setup(name)
        trainer = make_trainer(out, callbacks=[validated], strategy=strategy, devices=2)
        trainer.validate(module(), loader(60, seed=1, batch_size=8), verbose=False)
        for callbacks in ([], [callback]):
            watch = Watch()
            module, strategy = setup(name)
            trainer = make_trainer(out, callbacks=[*callbacks, watch], strategy=strategy, devices=2, max_epochs=2)
            trainer.fit(module(), loader(), loader(60, seed=1, batch_size=8))
            runs.append(watch.seen)
    same = len(runs[0]) == len(runs[1]) and all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    messages = [str(w.message) for w in caught]
    said = [message for message in messages if "before the first step" in message or "The run goes on" in message]
    note = {"expected": validated.history[0], "history": callback.history, "same": same, "said": said}
    (out / f"rank{os.environ.get('LOCAL_RANK', 0)}.json").write_text(json.dumps(note))


if __name__ == "__main__":
    main()
