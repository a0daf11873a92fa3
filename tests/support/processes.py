"""Processes that tests start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

from tests.support import ROOT

GRACE = 10  # seconds


def run_module(*arguments: Any, timeout: float = 180, **environment: str) -> subprocess.CompletedProcess[str]:
    """``python -m`` with arguments; where it takes too long it is ended with all that it started.

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
            os.killpg(process.pid, signal.SIGTERM)  # torchrun ends its workers, which are sessions of their own
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(line, process.returncode, stdout, stderr)
