"""Peak memory of a call."""

import ctypes
import gc
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def peak_bytes(function):
    """Bytes that ``function`` had taken at its peak beyond what was there before: of the GPU if there is one, else of
    the process (Linux), as the kernel counts them."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    _CLEAR.write_text("5")
    before = _read("VmRSS")
    function()
    return _read("VmHWM") - before


def _read(field):
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
