"""What tells a run that cannot be measured as it is set up from one where a measurement went wrong, in a line."""

# Characters of a line.
_LONGEST = 200


class SetupError(ValueError):
    """The run, as it is set up, cannot be measured: raised while nothing is lost by stopping."""


def first_line(error: Exception) -> str:
    """What it says, for a message that is one line; one that is long ends at a word."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    if len(line) <= _LONGEST:
        return line
    cut = line[:_LONGEST]
    return f"{cut.rpartition(' ')[0] or cut} …"
