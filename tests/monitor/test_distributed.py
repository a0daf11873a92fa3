"""The monitor over two real processes (gloo), in a bare loop."""

from __future__ import annotations

import warnings

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


def show(monitor, model, batches, how=""):
    with torch.no_grad():
        for batch in batches:
            tokens = batch["input_ids"] % 3 == 0 if how == "tokens" else None  # in some samples there is none
            own = None
            if how == "masked":  # ranks that see the same samples, and share them out themselves
                own = torch.arange(len(batch["labels"])) % 2 == torch.distributed.get_rank()
            with monitor.batch(batch["labels"], input_ids=batch["input_ids"], tokens=tokens, sample_mask=own):
                model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])


def share_of(batches, rank, how):
    if how == "uneven":
        return batches[:1] if rank else batches[1:]
    if how in ("copies", "masked"):
        return batches[::-1] if rank and how == "copies" else batches
    if how == "overlapping":
        return batches[rank:]
    if how == "one":  # the other has none, and learns the hidden sizes and classes from it
        return [] if rank else batches
    return batches[rank::2]


def worded():
    """Two classes a batch, the second of which neither rank has in common with the other."""
    return [
        batch | {"labels": [("politics", "sport")[i % 2] if y else "economy" for y in batch["labels"].tolist()]}
        for i, batch in enumerate(loader(60))
    ]


def worker(rank, out, how):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=2)
    model = tiny_model()
    monitor = NTPSMonitor(model, layers="all")
    show(monitor, model, share_of(worded() if how == "words" else list(loader(60)), rank, how), how)
    if how == "fault" and rank == 1:
        monitor.fail("the second rank is unwell")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = {layer: details.score for layer, details in monitor.compute().items()}
            found["samples"] = monitor.compute()[LAYERS].num_samples
            found |= {"names": monitor.class_names} if how == "words" else {}
        except ValueError as error:
            found = str(error)
    about_us = ("no token", "were seen on more than one rank", "saw the same")
    said = [str(w.message) for w in caught if any(words in str(w.message) for words in about_us)]
    torch.save((found, said), f"{out}/rank{rank}.pt")
    torch.distributed.barrier()  # PyTorch 2.6 may wait for ever for a rank that has left
    torch.distributed.destroy_process_group()


def run(tmp_path, how):
    spawn(worker, args=(str(tmp_path), how), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    return [first[0], second[0]], [first[1], second[1]]


@pytest.mark.filterwarnings("ignore:.*have no token that")
@pytest.mark.parametrize(
    "how", ["split", "uneven", *(pytest.param(how, marks=pytest.mark.slow) for how in ("one", "tokens"))]
)
def test_two_processes_give_the_scores_of_one(tmp_path, how):
    model = tiny_model()
    alone = NTPSMonitor(model, layers="all")
    show(alone, model, list(loader(60)), how)
    wanted = {layer: details.score for layer, details in alone.compute().items()}
    wanted["samples"] = alone.compute()[LAYERS].num_samples
    (first, second), said = run(tmp_path, how)
    assert first == second, "to the bit"
    assert first == pytest.approx(wanted, rel=1e-6)
    without = 60 - wanted["samples"]
    assert bool(without) == (how == "tokens")
    for messages in said:  # nobody has told torchmetrics the ranks
        assert len(messages) == (how == "tokens")
        assert all(message.startswith(f"{without} samples have no token") for message in messages), "of both ranks"


def test_a_fault_on_one_rank_is_one_on_all(tmp_path):
    assert run(tmp_path, "fault")[0] == ["it failed on another rank", "the second rank is unwell"]


def test_words_mean_the_same_on_every_rank(tmp_path):
    model = tiny_model()
    alone = NTPSMonitor(model, layers="all")
    show(alone, model, worded())
    wanted = {layer: details.score for layer, details in alone.compute().items()} | {"samples": 60}
    first, second = run(tmp_path, "words")[0]
    assert first == second, "to the bit"
    assert first.pop("names") == ["economy", "politics", "sport"] == sorted(alone.class_names)
    assert first == pytest.approx(wanted, rel=1e-6)


def of_one_process():
    model = tiny_model()
    alone = NTPSMonitor(model, layers="all")
    show(alone, model, list(loader(60)))
    return {layer: details.score for layer, details in alone.compute().items()} | {"samples": 60}


def test_ranks_that_saw_the_same_samples_count_once(tmp_path):
    wanted = of_one_process()
    (first, second), said = run(tmp_path, "copies")
    assert first == second == pytest.approx(wanted, rel=1e-6)
    assert said[0][0].startswith("2 ranks saw the same 60 samples")


@pytest.mark.slow
def test_ranks_that_share_out_a_batch_by_masks_are_no_copies(tmp_path):
    wanted = of_one_process()
    (first, second), said = run(tmp_path, "masked")
    assert first == second == pytest.approx(wanted, rel=1e-6)
    assert said == [[], []]


@pytest.mark.slow
def test_ranks_that_share_most_samples_are_said(tmp_path):
    (first, second), said = run(tmp_path, "overlapping")
    assert first == second
    assert first["samples"] == 104
    assert "of the samples were seen on more than one rank" in said[0][0]


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


@pytest.mark.skipif(not hasattr(torch.cpu.Stream, "record_event"), reason="torch 2.6 has no FSDP 2 on CPUs")
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
