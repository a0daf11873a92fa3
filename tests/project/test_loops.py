"""The examples of other loops in two real processes, beside the same loop in one, written out."""

from __future__ import annotations

import os
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from socket import socket

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import distributed
from torch.multiprocessing.spawn import spawn
from torch.utils.data import DataLoader
from transformers import LlamaForSequenceClassification

from ntps_lightning import NTPSMonitor
from tests.support.models import Padding, samples, tiny_config

LOOPS = ("torch_distributed", "fabric", "accelerate_loop")
EPOCHS = 2
TRAINED = samples(64)
# Neither two ranks nor their batches share these out evenly.
VALIDATED = samples(61, seed=1)

pytestmark = pytest.mark.slow


def make_model():
    """In float64, where the order of sums on two ranks costs nothing."""
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="SEQ_CLS")
    return get_peft_model(LlamaForSequenceClassification(tiny_config()), lora).double()


def loader(rows, batch_size):
    return DataLoader(rows, batch_size, collate_fn=Padding())


def numbers(details):
    held_out = details.held_out
    return {
        "score": details.score,
        "samples": details.num_samples,
        "accuracy": held_out.probe_accuracy.value,
        "accuracy_se": held_out.probe_accuracy.se,
        "captured": held_out.captured_r2.value,
        "captured_se": held_out.captured_r2.se,
        "r2": held_out.probe_r2.value,
    }


def alone():
    """The same loop without any of the libraries, its batches those of both processes; after each epoch."""
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    monitor = NTPSMonitor(model)
    found = []
    for _ in range(EPOCHS):
        for batch in loader(TRAINED, 16):
            model.train()(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        monitor.reset()
        for batch in loader(VALIDATED, 61):
            with torch.no_grad(), monitor.batch(batch["labels"], input_ids=batch["input_ids"]):
                model.eval()(**batch)
        (details,) = monitor.compute().values()
        found.append(numbers(details))
    return found


def launched(rank, port):
    """What torchrun, `fabric run` and `accelerate launch --cpu` tell a process."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
        "LT_CLI_USED": "1",
        "LT_DEVICES": "2",
        "LT_ACCELERATOR": "cpu",
        "ACCELERATE_USE_CPU": "true",
    }


def worker(rank, out, ports):
    torch.set_num_threads(1)
    for name, port in zip(LOOPS, ports, strict=True):
        os.environ.update(launched(rank, port))
        loop = import_module(f"examples.loops.{name}")
        if name == "torch_distributed":
            distributed.init_process_group("gloo")
        with redirect_stdout(StringIO()) as said:
            details = loop.main(make_model(), loader(TRAINED, 8), loader(VALIDATED, 8), epochs=EPOCHS)
        torch.save((numbers(details), said.getvalue()), f"{out}/{name}{rank}.pt")
        distributed.destroy_process_group()


def free_port():
    with socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def one_process():
    return alone()


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """What each loop has found in each of two processes, one loop after the other."""
    folder = tmp_path_factory.mktemp("loops")
    spawn(worker, args=(str(folder), [free_port() for _ in LOOPS]), nprocs=2)
    return folder


def line_of(epoch, found):
    accuracy, captured = (f"{found[name]:.3f} ± {found[f'{name}_se']:.3f}" for name in ("accuracy", "captured"))
    return f"epoch {epoch}: probe accuracy {accuracy}, captured R² {captured}\n"


@pytest.mark.parametrize("name", LOOPS)
def test_two_processes_measure_what_one_does(out, name, one_process):
    (first, said), (second, nothing) = (torch.load(out / f"{name}{rank}.pt") for rank in range(2))
    assert first == second, "to the bit"
    assert first == pytest.approx(one_process[-1], rel=0, abs=1e-6)
    assert first["score"] != pytest.approx(one_process[0]["score"], rel=0, abs=1e-4), "the second epoch was another"
    assert said == "".join(line_of(epoch, found) for epoch, found in enumerate(one_process))
    assert not nothing
