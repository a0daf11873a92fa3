"""Processes that tests start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

from tests.support import ROOT


def run_module(*arguments: Any, timeout: float = 180, **environment: str) -> subprocess.CompletedProcess[str]:
    """``python -m`` with arguments, and with all that it starts killed where it takes too long.

    Raises:
        subprocess.TimeoutExpired: If it does.

    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    line = [sys.executable, "-m", *map(str, arguments)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, env=inherited | environment, cwd=ROOT, start_new_session=True, **pipes) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(line, process.returncode, stdout, stderr)
