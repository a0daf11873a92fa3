"""The monitor over two real processes (gloo), in a bare loop."""

from __future__ import annotations

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn
from transformers import BertModel, LlamaForSequenceClassification

from ntps_lightning import NTPSMonitor
from tests.support.architectures import tiny
from tests.support.models import LAYERS, loader, tiny_config


def tiny_model():
    torch.manual_seed(0)
    return LlamaForSequenceClassification(tiny_config()).eval()


def show(monitor, model, batches):
    with torch.no_grad():
        for batch in batches:
            with monitor.batch(batch["labels"], input_ids=batch["input_ids"]):
                model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])


def share_of(batches, rank, how):
    if how == "uneven":
        return batches[:1] if rank else batches[1:]
    if how == "one":  # the other has none, and learns the hidden sizes and classes from it
        return [] if rank else batches
    return batches[rank::2]


def worker(rank, out, how):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=2)
    model = tiny_model()
    monitor = NTPSMonitor(model, layers="all")
    show(monitor, model, share_of(list(loader(60)), rank, how))
    if how == "fault" and rank == 1:
        monitor.fail("the second rank is unwell")
    try:
        found = {layer: details.score for layer, details in monitor.compute().items()}
        found["samples"] = monitor.compute()[LAYERS].num_samples
    except ValueError as error:
        found = str(error)
    torch.save(found, f"{out}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def run(tmp_path, how):
    spawn(worker, args=(str(tmp_path), how), nprocs=2)
    return [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("how", ["split", "uneven", "one"])
def test_two_processes_give_the_scores_of_one(tmp_path, how):
    model = tiny_model()
    alone = NTPSMonitor(model, layers="all")
    show(alone, model, list(loader(60)))
    wanted = {layer: details.score for layer, details in alone.compute().items()} | {"samples": 60}
    first, second = run(tmp_path, how)
    assert first == second, "to the bit"
    assert first == pytest.approx(wanted, rel=1e-6)


def construct(rank, out, model_of):
    """What making a monitor of each rank's own model says."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=2)
    try:
        NTPSMonitor(model_of(rank))
        said = ""
    except ValueError as error:
        said = str(error)
    torch.save(said, f"{out}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def encoder_on_the_second(rank):
    return BertModel(tiny("BertConfig", is_decoder=rank == 0)())


def unfit_on_the_second(rank):
    model = tiny_model()
    if rank == 1:
        del model.model.norm  # its call fails
    return model


def call_the_root_later(rank, out):
    """FSDP 2 takes the module that is called first for its root; a part of the model must not become it."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=2)
    model = tiny_model()
    inner = model.model
    for part in (inner.embed_tokens, *inner.layers, inner.norm, model):
        fully_shard(part, mesh=init_device_mesh("cpu", (2,)))
    NTPSMonitor(inner)
    model(input_ids=torch.ones(1, 3).long())
    torch.distributed.destroy_process_group()


def test_a_part_of_a_sharded_model_is_not_called(tmp_path):
    spawn(call_the_root_later, args=(str(tmp_path),), nprocs=2)


def test_an_encoder_on_one_rank_is_refused_on_all(tmp_path):
    spawn(construct, args=(str(tmp_path), encoder_on_the_second), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert first == second
    assert "BertModel looks ahead" in first


def test_a_call_that_fails_on_one_rank_leaves_no_other_waiting(tmp_path):
    spawn(construct, args=(str(tmp_path), unfit_on_the_second), nprocs=2)
    assert [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)] == ["", ""]


def test_a_fault_on_one_rank_is_one_on_all(tmp_path):
    assert run(tmp_path, "fault") == ["it failed on another rank", "the second rank is unwell"]
