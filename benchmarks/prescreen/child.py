"""A measurement in a process of its own, so that no library meets what another has loaded or taken."""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path

from benchmarks.prescreen.settings import ROOT


def measure(party: str, what: str, **options) -> dict:
    """``what(**options)`` of benchmarks.prescreen.``party``.

    Raises:
        RuntimeError: If it fails there.

    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        request = json.dumps({"party": party, "what": what, "options": options})
        command = [sys.executable, "-m", "benchmarks.prescreen.child", request, str(file)]
        run = subprocess.run(command, cwd=ROOT, env={**os.environ, "TQDM_DISABLE": "1"})
        if run.returncode:
            raise RuntimeError(f"{party}'s {what} with {options} failed, for the reason above")
        return json.loads(file.read_text())


def main():
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    request, file = json.loads(sys.argv[1]), Path(sys.argv[2])
    with redirect_stdout(sys.stderr):
        function = getattr(import_module(f"benchmarks.prescreen.{request['party']}"), request["what"])
        found = function(**request["options"])
    file.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
