"""Launched by `test_strategies.py` with OUT STRATEGY SAMPLES DATA: trains, and notes each rank's values."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from ntps_lightning import NTPSCallback
from ntps_lightning.capture.backbone import find_backbone
from ntps_lightning.errors import SetupError
from tests.support.models import EncoderModule, LoraModule, loader, make_trainer

RANK = int(os.environ.get("LOCAL_RANK", 0))


class CPUFSDPStrategy(FSDPStrategy):
    """Lightning refuses FSDPStrategy itself on a CPU, and PyTorch wants to be told of the device."""

    def _setup_model(self, model: nn.Module) -> nn.Module:
        return FullyShardedDataParallel(model, device_id=torch.device("cpu"), **self.kwargs)


class FSDP2Module(LoraModule):
    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]
        for layer in find_backbone(self).layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(self.model, mesh=mesh)


class TensorParallelModule(LoraModule):
    def plan(self) -> dict[str, ParallelStyle]:
        columns = ["self_attn.k_proj", "mlp.gate_proj", "mlp.up_proj"]
        columns += [
            f"self_attn.{adapted}.{part}"
            for adapted in ("q_proj", "v_proj")
            for part in ("base_layer", "lora_B.default")
        ]
        rows = ("self_attn.o_proj", "mlp.down_proj")
        return {name: ColwiseParallel() for name in columns} | {name: RowwiseParallel() for name in rows}

    def configure_model(self) -> None:
        for layer in find_backbone(self).layers:
            parallelize_module(layer, self.device_mesh["tensor_parallel"], self.plan())


class ParallelEncoder(EncoderModule):
    def plan(self) -> dict[str, ParallelStyle]:
        return {"intermediate.dense": ColwiseParallel(), "output.dense": RowwiseParallel()}


def module_and_strategy(name: str, data: str) -> tuple[type[LoraModule], Any]:
    if name == "fsdp":
        # A full state dict makes PyTorch crash on a CPU.
        wrap = ModuleWrapPolicy({LlamaDecoderLayer, BertLayer})
        return LoraModule, CPUFSDPStrategy(auto_wrap_policy=wrap, state_dict_type="sharded")
    return {
        "one": lambda: (LoraModule, "auto"),
        # DDP broadcasts buffers in the first forward pass after training, which a rank without batches never joins.
        "ddp": lambda: (LoraModule, DDPStrategy(broadcast_buffers=data != "empty")),
        "fsdp2": lambda: (FSDP2Module, ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)),
        "tensor_parallel": lambda: (TensorParallelModule, ModelParallelStrategy(1, 2)),
    }[name]()


class Poison(Callback):
    """The first epoch's validation holds a NaN, in DDP on the second rank alone; not when its calls are made again."""

    def __init__(self, ranks: tuple[int, ...]) -> None:
        self.ranks = ranks

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        first = trainer.current_epoch == 0 and not trainer.sanity_checking
        bad = first and batch_idx == 1 and RANK in self.ranks
        embedding = pl_module.model.get_input_embeddings()
        self.handle = embedding.register_forward_hook(
            lambda m, a, out: out * float("nan") if bad and not trainer.sanity_checking else out
        )

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.handle.remove()


class ZeroLength(LoraModule):
    def __init__(self, learning_rate: float) -> None:
        super().__init__(learning_rate)
        self.allow_zero_length_dataloader_with_multiple_devices = True


class ByLength(BatchSampler):
    """The longest first, as people do to spare padding; Lightning gives it the sampler of each rank."""

    def __iter__(self) -> Iterator[list[int]]:
        rows = loader(61, seed=1).dataset
        order = sorted(self.sampler, key=lambda index: -len(rows[index][0]))
        yield from (order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size))


class Stream(IterableDataset):
    """Has no length: Lightning refuses loaders that have one of zero."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)


def validation_loader(samples: int, data: str) -> DataLoader:
    """``"sampler"`` has Lightning split the samples; ``"uneven"`` leaves three, ``"empty"`` none to the last rank."""
    whole = loader(samples, seed=1, batch_size=8)
    if data in ("sampler", "nan", "encoder"):
        return whole
    if data == "reordered":
        sampler = ByLength(SequentialSampler(whole.dataset), 8, drop_last=False)
        return DataLoader(whole.dataset, batch_sampler=sampler, collate_fn=whole.collate_fn)
    if data == "unsharded":
        return DataLoader(Stream(whole.dataset), batch_size=8, collate_fn=whole.collate_fn)
    if data == "zero":
        return loader(samples if RANK == 0 else 0, seed=1, batch_size=8)
    first = samples - 3 if data == "uneven" else samples
    rows = whole.dataset[:first] if RANK == 0 else whole.dataset[first:]
    return DataLoader(Stream(rows), batch_size=8, collate_fn=whole.collate_fn)


class Untried(logging.Handler):
    """What was said of models that could not be tried."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = []

    def emit(self, record: logging.LogRecord) -> None:
        if "could not try" in record.getMessage():
            self.lines.append(record.getMessage())


class Notes(Callback):
    def __init__(self, out: Path) -> None:
        self.out, self.epochs, self.reductions, self.untried = out, [], 0, Untried()
        logging.getLogger("torchmetrics").addHandler(self.untried)

    def on_fit_start(self, trainer, pl_module):
        reduce = trainer.strategy.reduce

        def counted(*args, **kwargs):
            self.reductions += 1
            return reduce(*args, **kwargs)

        trainer.strategy.reduce = counted

    def on_validation_end(self, trainer, pl_module):
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.epochs.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("ntps")})

    def on_fit_end(self, trainer, pl_module):
        note = {"epochs": self.epochs, "history": trainer.callbacks[0].history, "stopped": trainer.current_epoch}
        note["reductions"] = self.reductions
        note["untried"] = self.untried.lines
        note["checkpoint"] = trainer.checkpoint_callback.best_model_path
        (self.out / f"rank{trainer.global_rank}.json").write_text(json.dumps(note))


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    out, name, samples, data = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    module, strategy = module_and_strategy(name, data)
    module = ZeroLength if data == "zero" else module
    module = type("Encoder", (ParallelEncoder, module), {}) if data == "encoder" else module
    monitor = {"monitor": "ntps/score", "mode": "max"}
    trainer = make_trainer(
        out,
        callbacks=[
            NTPSCallback(layers=[1, -1]),
            *([Poison((1,) if name == "ddp" else (0, 1))] if data == "nan" else []),
            EarlyStopping(**monitor, patience=1),
            Notes(out),
            ModelCheckpoint(out / "checkpoints", **monitor),
        ],
        strategy=strategy,
        devices=1 if name == "one" else 2,
        use_distributed_sampler=data in ("sampler", "nan", "reordered", "encoder"),
        enable_checkpointing=True,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            # Nothing is learned, so that one process and two see the same model.
            if name == "fsdp":  # a baseline is not measured in the fit; one module cannot be wrapped twice
                trainer.validate(module(learning_rate=0.0), validation_loader(samples, data), verbose=False)
            trainer.fit(module(learning_rate=0.0), loader(), validation_loader(samples, data))
        except SetupError as error:
            (out / f"refused{RANK}.json").write_text(json.dumps({"why": str(error), "step": trainer.global_step}))
            raise
    said = [str(warning.message) for warning in caught]
    copies = ("cannot be told", "saw the same")
    about_us = [s for s in said if ("ntps" in s and "sync_dist" in s) or any(words in s for words in copies)]
    (out / f"warnings{trainer.global_rank}.json").write_text(json.dumps(about_us))


if __name__ == "__main__":
    main()
