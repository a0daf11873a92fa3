"""What the examples print at their end: held-out numbers with their standard errors, and in words what has changed."""

NAMES = {
    "captured_r2": "Captured R², what a linear probe reads in the leading autoregressive directions,",
    "probe_accuracy": "The accuracy of a probe on the whole state",
}


def held_out_table(rows, first, names, plain=(), prefix="ntps"):
    """A line for each row of logged values: what it is called by, plain numbers, held-out ones, the score.

    ``first`` and ``plain`` are keys as they stand; ``names`` are those of held-out numbers under ``prefix``.
    """
    lines = [[first, *plain, *names, "score"]]
    for row in rows:
        numbers = [f"{row[name]:.3f}" if name in row else "-" for name in plain]
        held_out = [f"{row[f'{prefix}/{name}']:.3f} ± {row[f'{prefix}_se/{name}']:.3f}" for name in names]
        lines.append([str(row[first]), *numbers, *held_out, f"{row[f'{prefix}/score']:.4f}"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(n) for cell, n in zip(line, widths, strict=True)) for line in lines)


def changes_in_words(ntps):
    """What has changed since before the first step, each number of the same samples with the error of the change."""
    changes = ntps.changes.get("baseline", {})
    words = [f"{meaning} {_changed(changes[name])}." for name, meaning in NAMES.items() if name in changes]
    return "\n".join(words or ["Nothing was measured before the first step that compares."])


def _changed(change):
    if abs(change.value) <= 2 * change.se:
        return f"did not change beyond its error ({change.value:+.3f} ± {change.se:.3f})"
    return f"{'rose' if change.value > 0 else 'fell'} by {abs(change.value):.3f} ± {change.se:.3f}"
