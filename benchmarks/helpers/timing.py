"""Functions timed in turn, in one run, and tables of their ratios with the goals beside them."""

import gc
import statistics
import time

import torch

from benchmarks.helpers.progress import doing

# A function that took longer is announced in every round, others in the first alone.
_LONG = 2.0


def in_turn(what, functions, repeats, warm_up=True):
    """Seconds of every function in every round, after one round to warm up; says that ``what`` is timed."""
    seconds = {name: [] for name in functions}
    latest = dict.fromkeys(functions, _LONG)
    for i in range(0 if warm_up else 1, repeats + 1):
        for name, function in functions.items():
            if latest[name] >= _LONG:
                doing(f"{what}: {name}, {f'round {i} of {repeats}' if i else 'warming up'}")
            gc.collect()
            _wait()
            start = time.perf_counter()
            function()
            _wait()
            latest[name] = time.perf_counter() - start
            if i:
                seconds[name].append(latest[name])
    return seconds


def _wait():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratios(seconds, base):
    """The ratio to ``base`` in every round, so that a slow moment of the machine counts for both."""
    return [value / other for value, other in zip(seconds, base, strict=True)]


def spread(values, digits=2):
    """Median, and least and most."""
    low, middle, high = (f"{f(values):.{digits}f}" for f in (min, statistics.median, max))
    return f"{middle} ({low}-{high})"


def goal(value, limit, most=True, unit=""):
    """The limit and whether ``value`` keeps it."""
    kept = value <= limit if most else value >= limit
    return f"{'<=' if most else '>='} {limit:g}{unit}", "met" if kept else "MISSED"


def table(title, columns, rows):
    """Print it, the first column to the left."""
    cells = [columns, *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    print(f"\n{title}\n" + "-" * len(title))
    for row in cells:
        print("  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))))
    print(flush=True)


def machine():
    """What the figures were measured on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU threads, no GPU: its rows are not measured"
