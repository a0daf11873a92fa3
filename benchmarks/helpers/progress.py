"""What a benchmark is doing, on stderr, so that what it prints on stdout is tables alone."""

import sys
import time

_STARTED = time.perf_counter()


def doing(what):
    """Say it in a line, after the seconds since the start."""
    print(f"[{time.perf_counter() - _STARTED:5.0f} s] {what} ...", file=sys.stderr, flush=True)
