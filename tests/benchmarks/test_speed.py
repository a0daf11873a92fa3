"""The benchmarks run, on sizes that say nothing of speed; what they print is judged by who reads it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import accumulate, memory, overhead, prompts, scaling, solve, sync
from benchmarks.helpers import timing
from benchmarks.helpers.modules import llama
from benchmarks.helpers.peak import peak_bytes
from benchmarks.helpers.synthetic import hidden_states


@pytest.mark.slow
def test_accumulate_and_solve():
    rows = list(accumulate.measure(32, 4, 8, "cpu", repeats=2))
    assert [row[-1] in ("met", "MISSED") for row in rows] == [False, False, True, True, True, True, False]
    one, whole, *_ = solve.measure(64, "cpu", repeats=1)
    assert float(one[4]) < 1e-6
    assert float(whole[4]) == 0


def test_overhead_of_a_tiny_llama(monkeypatch):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 50}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    module, batches = llama(20, 8, 4, **sizes, **heads)
    rows = list(overhead.measure("tiny", module, batches, 1, {"layers=-1": 1.02}))
    assert rows[0][2].split()[0] == "1.000"
    assert [row[-1] in ("met", "MISSED") for row in rows] == [False, True, False]


def test_memory_stays_within_what_is_stated():
    rows = list(memory.parts(256, "cpu"))
    assert [row[-1] for row in rows] == ["met"] * 7


def test_a_prompt_counts_or_not(monkeypatch):
    states, labels = hidden_states(60, 9, 16)
    monkeypatch.setattr(prompts, "hidden_states", lambda *_: ([states], labels, torch.ones(60, 9)))
    ((_, *whole),) = prompts.measure(60, 0)
    (_, *every), (_, *text) = prompts.measure(60, 4)
    assert (whole[0], every[0], text[0]) == ("all", "all", "the text's")
    assert whole[1:] == every[1:] != text[1:]


@pytest.mark.slow
def test_sync_moves_no_more_than_a_ring_and_takes_no_memory_for_ranks():
    d = 256
    found = sync.measure(2, 256)
    states = (3 * d**2 + 12 * d) * 8
    own = [sent for name, (_, sent) in found.items() if "torchmetrics" not in name]
    assert all(sent < 2 * states for sent in own)  # twice a ring all-reduce over two ranks


def test_the_cost_model_prints(capsys, monkeypatch):
    monkeypatch.setattr(scaling, "measured", lambda: iter(()))
    monkeypatch.setattr(sys, "argv", ["scaling.py"])
    scaling.main()
    printed = capsys.readouterr().out
    assert "Llama-3.1-405B, 512 ranks" in printed


def test_what_is_under_way_is_said_on_stderr(capsys, monkeypatch):
    runs = {"quick": lambda: None, "slow": lambda: None}
    assert {name: len(values) for name, values in timing.in_turn("d=8", runs, 2).items()} == {"quick": 2, "slow": 2}
    printed = capsys.readouterr()
    assert printed.out == "", "tables alone"
    lines = [line.partition("] ")[2] for line in printed.err.splitlines()]
    assert lines == ["d=8: quick, warming up ...", "d=8: slow, warming up ..."]
    monkeypatch.setattr(timing, "_LONG", 0.0)
    timing.in_turn("d=8", runs, 2, warm_up=False)
    lines = [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == [f"d=8: {name}, round {i} of 2 ..." for i in (1, 2) for name in runs]


def test_goals_and_tables(capsys):
    assert timing.goal(1.0, 1.0) == ("<= 1", "met")
    assert timing.goal(3.9, 4, most=False, unit="x") == (">= 4x", "MISSED")
    timing.table(
        "A title", ["what", "ratio"], [["row", timing.spread(timing.ratios([2.0, 4.0, 9.0], [2.0, 2.0, 3.0]))]]
    )
    assert "row   2.00 (1.00-3.00)" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
def test_the_peak_is_that_of_the_call():
    peak = peak_bytes(lambda: torch.zeros(2**23).add_(1).sum())
    assert peak == pytest.approx(2**25, rel=0.5)
