"""The commands, and what they are given."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ntps_lightning.command.doctor import add_doctor
from ntps_lightning.command.prescreen import add_prescreen, with_negative_layers

# Each adds itself to the subparsers, with a default `run`: a function of the options that returns the exit code.
_COMMANDS = (add_doctor, add_prescreen)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: of the shell, by default those of this process.

    Returns:
        0 where all is fine, 1 where something is wrong, 130 where it was interrupted.

    Raises:
        SystemExit: With 2, if the arguments are not understood.

    """
    parser = argparse.ArgumentParser(
        prog="ntps", description="Next Token Perception Score: watch a language model align with your labels."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for add in _COMMANDS:
        add(commands)
    options = parser.parse_args(with_negative_layers(sys.argv[1:] if arguments is None else arguments))
    if "run" not in options:
        parser.print_help()
        return 0
    code: int = options.run(options)
    return code
