"""What tests start does not outlive them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import run_module

STARTS_ANOTHER = """
import subprocess, sys, time
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
open(sys.argv[1], "w").write(str(other.pid))
time.sleep(100)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_what_takes_too_long_is_ended_with_what_it_started(tmp_path):
    (tmp_path / "starts_another.py").write_text(STARTS_ANOTHER)
    with pytest.raises(subprocess.TimeoutExpired):
        run_module("starts_another", tmp_path / "pid", timeout=4, PYTHONPATH=str(tmp_path))
    other = Path("/proc") / (tmp_path / "pid").read_text() / "stat"
    deadline = time.monotonic() + 10
    while runs(other):
        assert time.monotonic() < deadline, "it is still running"
        time.sleep(0.1)


def runs(stat: Path) -> bool:
    try:
        return stat.read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
