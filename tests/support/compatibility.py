"""Writes COMPATIBILITY.md from the outcomes of the tests that ran; a pytest plugin.

A test says what it shows with ``@pytest.mark.compatibility(section, row, note_or_column)``: in the sections of
``MATRICES`` the third is a column of the table, elsewhere what is checked. ``make compatibility`` runs those tests and
writes the file but for its section of the lowest versions, which ``make test-floor`` writes; ``--table`` prints the
tables of the tests that ran.
"""

from __future__ import annotations

import platform
import re
from importlib.metadata import version

import pytest
import torch

from tests.support import ROOT

FILE = ROOT / "COMPATIBILITY.md"
SECTIONS = {
    "Models": "Every layer equals `output_hidden_states=True` to the bit. Empty cells: no such model.",
    "Plain PyTorch": "A module that returns `(N, T, d)` hidden states, with its layers in one `nn.ModuleList`.",
    "Not supported": "One error at the start, which names the reason and the way out.",
    "Labels": "What a batch may hold as its labels.",
    "Encoders": "Recognised by what they do: states of the first tokens must not depend on later ones.",
    "Passes": "What a `validation_step` may do.",
    "Strategies": "Two processes on CPU (gloo). Every rank logs the same bits, and the score of one process.",
    "Same bits": (
        "Losses of training, metrics of validation, weights, modes and random numbers with and without the callback,"
        " baseline included, which is what `trainer.validate` before `fit` gives to 1e-6 (where a validation can be"
        " repeated). `make same-bits` prints it."
    ),
    "Prescreening": "Before any finetuning: what is read, and what goes wrong.",
    "Precision": "The score against the float64 definition.",
    "Lifecycle": "What a Trainer may do.",
    "Faults": "The run goes on, or stops with one clear error before it has cost anything.",
}
MATRICES = ("Models", "Same bits")
FLOOR, LAST = "## Lowest versions", "## Not tried, or not in our hands"
PACKAGES = ("torch", "lightning", "transformers", "peft", "torchmetrics")
_MARKS = {"passed": "✓", "failed": "✗", "skipped": "not run"}


NO_GPU = """\
- A GPU was not at hand: CUDA, TF32, `16-mixed` and NCCL are unproven. `CUDA_VISIBLE_DEVICES=0 make compatibility` tries
  the precisions on one.
"""
NOT_TRIED = """\
- DeepSpeed: Lightning runs it on CUDA GPUs alone ("The DeepSpeed strategy is only supported on CUDA GPUs but
  `CPUAccelerator` is used").
- Apple's MPS has no float64, which the sums need.
- Resuming from a checkpoint that was saved inside an epoch: Lightning starts a plain DataLoader at its first batch
  again, and skips the validation of an epoch whose last step the checkpoint was saved at: the history lacks it.
- A disk that is full: TensorBoard's writer raises at the next thing that anybody logs, and Lightning stops the run,
  with or without the callback.
- FSDP was tried with sharded checkpoints: on a CPU, PyTorch crashes on a full state dict, with or without the callback.
"""


class Table:
    """Collects outcomes while tests run, in as many processes as there are.

    Args:
        write: ``"all"`` of the file, its section of the lowest versions (``"floor"``) or nothing but what is printed.

    """

    def __init__(self, write: str = "") -> None:
        self._write = write
        self.outcomes: dict[tuple[str, str, str], str] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        report.compatibility = [list(mark.args) for mark in item.iter_markers("compatibility")]
        return report

    def pytest_runtest_logreport(self, report):
        if report.when != "call" and report.passed:
            return
        for section, row, *last in report.compatibility:
            outcome = _MARKS[report.outcome]
            if report.skipped and isinstance(report.longrepr, tuple):
                outcome = f"not run: {report.longrepr[2].removeprefix('Skipped: ')}"
            key = (section, row, *last) if last else (section, row, "")
            if self.outcomes.get(key) in (None, "✓"):
                self.outcomes[key] = outcome

    def pytest_sessionfinish(self, session):
        if hasattr(session.config, "workerinput") or session.exitstatus not in (0, 1):
            return
        if self._write == "all":
            FILE.write_text(self.render(floor_section(FILE.read_text())))
        if self._write == "floor":
            before, after = FILE.read_text().split(LAST)
            FILE.write_text(f"{before.partition(FLOOR)[0]}{self.render_floor()}{LAST}{after}")

    def pytest_terminal_summary(self, terminalreporter):
        if not self._write:
            terminalreporter.write("\n".join([*self._tables(), ""]))

    def render(self, floor: str = "") -> str:
        lines = ["# Compatibility", "", f"Written by `make compatibility` from the tests that ran: {self._passed()}."]
        lines += [*self._tables(), "", f"{floor}{LAST}", "", ""]
        return "\n".join(lines) + ("" if torch.cuda.is_available() else NO_GPU) + NOT_TRIED

    def render_floor(self) -> str:
        """What the lowest versions do otherwise than the tables say."""
        lowest = ", ".join(f"`{floor}`" for floor in floors().values())
        lines = [
            FLOOR,
            "",
            f"{lowest}. Written by `make test-floor` from the quick tests of the rows above that ran: {self._passed()}."
            " Those that did not:",
            "",
            "| | | why |",
            "|---|---|---|",
        ]
        others = {key: outcome for key, outcome in self.outcomes.items() if outcome != "✓"}
        rows: dict[tuple[str, str, str], list[str]] = {}
        for (where, row, last), outcome in others.items():
            rows.setdefault((where, row, outcome.removeprefix("not run: ")), []).append(last)
        for (where, row, why), found in rows.items():
            whole = {last for at, name, last in self.outcomes if (at, name) == (where, row)} == set(found)
            lines.append(f"| {where} | {row}{'' if whole else ': ' + ', '.join(found)} | {why} |")
        return "\n".join([*lines, "", ""])

    def _passed(self) -> str:
        survived = sum(outcome == "✓" for outcome in self.outcomes.values())
        versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
        python = ".".join(platform.python_version_tuple()[:2])
        return f"{survived} of {len(self.outcomes)} passed, with {versions}, Python {python}, {_device()}"

    def _tables(self) -> list[str]:
        lines: list[str] = []
        for section, text in SECTIONS.items():
            cases = {(row, last): o for (where, row, last), o in self.outcomes.items() if where == section}
            if cases:
                lines += ["", f"## {section}", "", text, "", *(_matrix if section in MATRICES else _list)(cases)]
        return lines


def floor_section(text: str) -> str:
    """That of the lowest versions, which another run writes; empty where there is none yet."""
    _, found, after = text.partition(FLOOR)
    return found + after.partition(LAST)[0]


def floors() -> dict[str, str]:
    """What pyproject.toml admits of each package, such as ``torch>=2.6``."""
    asked = re.findall(r'"([a-z]+)([>!]=[^"]+)"', (ROOT / "pyproject.toml").read_text())
    return {name: f"{name}{dict(asked)[name]}" for name in PACKAGES}


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.system()} on CPU, no GPU"


def _matrix(cases: dict[tuple[str, str], str]) -> list[str]:
    columns = list(dict.fromkeys(column for _, column in cases))
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for row in dict.fromkeys(row for row, _ in cases):
        lines.append(f"| {row} | {' | '.join(cases.get((row, column), '') for column in columns)} |")
    return lines


def _list(cases: dict[tuple[str, str], str]) -> list[str]:
    lines = ["| | | what is checked |", "|---|---|---|"]
    return lines + [f"| {row} | {outcome} | {note} |" for (row, note), outcome in cases.items()]
