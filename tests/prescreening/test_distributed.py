"""Two processes (gloo) share out the texts, and both come to what one finds."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from ntps_lightning import prescreen
from ntps_lightning.errors import SetupError
from ntps_lightning.prescreening.result import Prescreen
from tests.prescreening.tiny import llama, llama_folder, rows, word_tokenizer


def worker(rank, folder):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    result = prescreen(str(folder / "model"), rows(101), cache=folder / "cache")
    again = prescreen(str(folder / "model"), rows(101), cache=folder / f"cache{'' if rank == 0 else '-of-none'}")
    plain = [each.to_json() for each in (result, again)]
    if rank:  # what only one rank cannot do, both refuse
        (folder / "model" / "config.json").rename(folder / "model" / "hidden.json")
    torch.distributed.barrier()
    try:
        prescreen(str(folder / "model") if rank else (llama(), word_tokenizer()), rows(101), cache=folder / "cache")
        said = ""
    except SetupError as error:
        said = str(error)
    result.save(folder / f"{rank}.json")
    torch.save([*plain, said], folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    llama_folder(folder / "model")
    spawn(worker, (folder,), nprocs=2)
    return folder


def test_ranks_find_the_same_and_what_one_alone_finds(folder, tmp_path):
    results = [Prescreen.load(folder / f"{rank}.json") for rank in range(2)]
    llama_folder(tmp_path / "model")
    alone = prescreen(str(tmp_path / "model"), rows(101), cache=tmp_path / "cache").measured[0]
    for result in results:
        (both,) = result.measured
        assert both.model_id == alone.model_id
        assert both.num_samples == alone.num_samples == 101
        for one, other in zip(both.layers, alone.layers, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-6)
            assert one.probe_r2.value == pytest.approx(other.probe_r2.value, abs=1e-5)
            assert one.log_me == pytest.approx(other.log_me, rel=1e-5)
            assert one.curve.keys() == other.curve.keys()


def test_the_first_ranks_cache_serves_both(folder):
    for rank in range(2):
        first, again, _ = torch.load(folder / f"{rank}.pt")
        assert again == first
    assert not (folder / "cache-of-none").exists()


def test_what_one_rank_refuses_both_do(folder):
    said = [torch.load(folder / f"{rank}.pt")[2] for rank in range(2)]
    assert "has no config.json" in said[1]
    assert said[0] == f"rank 1: {said[1]}"
