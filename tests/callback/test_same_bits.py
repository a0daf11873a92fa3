"""With and without us: losses, metrics, weights and random numbers of every kind of run, the baseline included."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from tests.callback.kinds import KINDS, Outcome, outcome
from tests.callback.test_strategies import start
from tests.support.models import LoraModule

EXACT, NEAR = "the same bits", "validation within 1e-6"
PLAIN = ("float32", "bf16-mixed", "bf16-true")
TWO = {"ddp": "DDP, 2 processes", "fsdp2": "FSDP 2, 2 processes"}
IGNORED = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


def cell(name: str, column: str, *marks: Any):
    return pytest.param(name, column, id=f"{name}, {column}",
                        marks=[pytest.mark.compatibility("Same bits", name, column), *marks, *IGNORED])  # fmt: skip


def check(found: Outcome, name: str, most: float = 0.0) -> None:
    assert found.trained
    assert found.validated <= most
    if KINDS[name].steady:
        assert found.baseline is not None
        assert found.baseline <= 1e-6
    before = found.history[0]
    first = next(row for row in found.history if row["step"] > 0)
    assert before["step"] == 0
    ratio = {"ntps/captured", "ntps_se/captured"}  # where it is one
    assert before.keys() - ratio == first.keys() - ratio
    assert before["ntps_info/valid"] == first["ntps_info/valid"] == 1
    assert before["ntps/gain"] == 0
    assert first["ntps/gain"] == first["ntps/score"] - before["ntps/score"] != 0


@pytest.mark.parametrize(
    ("name", "precision"),
    [cell(name, each, *([] if each == "float32" else [pytest.mark.slow])) for name in KINDS for each in PLAIN],
)
def test_the_run_is_the_same_bits_and_the_baseline_that_of_validate(tmp_path, name, precision):
    options = {} if precision == "float32" else {"precision": precision}
    check(outcome(KINDS[name], tmp_path, settings=lambda: options), name)


def compiled(module: Any) -> Any:
    torch._dynamo.reset()
    module.model = torch.compile(module.model, backend="aot_eager")
    return module


@pytest.mark.parametrize(("name", "column"), [cell(name, f"compiled ({NEAR})", pytest.mark.slow) for name in KINDS])
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_trains_the_same_bits(tmp_path, name, column):
    check(outcome(KINDS[name], tmp_path, compiled), name, most=1e-6)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes find of every kind, by strategy."""
    found: dict[str, list[dict[str, Any]]] = {}

    def run(strategy: str) -> list[dict[str, Any]]:
        if strategy not in found:
            out = tmp_path_factory.mktemp(strategy)
            ended = start(out, strategy, script="same_bits_run", timeout=900)
            notes = [out / f"rank{rank}.json" for rank in range(2)]
            complete = all(note.exists() for note in notes)
            ended_badly = {name: {"error": ended.stderr[-3000:]} for name in KINDS}
            found[strategy] = [json.loads(note.read_text()) if complete else ended_badly for note in notes]
        return found[strategy]

    return run


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        pytest.param(name, each, id=f"{name}, {each}",
                     marks=[pytest.mark.compatibility("Same bits", name, TWO[each]), pytest.mark.slow])
        for each in TWO for name in KINDS
    ],
)  # fmt: skip
def test_two_processes_train_the_same_bits(two, name, strategy):
    first, second = (rank[name] for rank in two(strategy))
    assert "error" not in first | second, first
    for rank in (first, second):
        check(Outcome(**rank), name)
    assert first["history"] == second["history"], "to the bit"


def test_what_is_compared_can_differ(tmp_path):
    """A run with another learning rate is not the same."""
    one, other = (KINDS["adapters"].fit(tmp_path, [], LoraModule(rate)) for rate in (0.02, 0.021))
    assert any(not torch.equal(a, b) for a, b in zip(one.trained, other.trained, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(one.validated, other.validated, strict=True))
