"""``ntps doctor``: what is installed here, what it can do, and whether a model can be scored."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ntps_lightning.command.loggers import FoundLogger, find_loggers
from ntps_lightning.command.model import ModelReport, look_at_model
from ntps_lightning.command.packages import Package, find_packages, problems_of
from ntps_lightning.command.text import as_text

if TYPE_CHECKING:
    from ntps_lightning.command.devices import Device

_EPILOG = """\
exit codes: 0 all fine, 1 something is wrong (each line of it with the way out), 2 the arguments are not understood.

No weights are loaded, and no code that a model's folder brings is run.
"""


@dataclass(frozen=True)
class Findings:
    """What was found.

    Args:
        packages: what is installed, next to what this package's metadata asks for.
        loggers: that Lightning can log to here.
        devices: that a model can be on here.
        model: the one that was asked about, if any.
        problems: what is wrong, a line each, with the way out.

    """

    packages: list[Package]
    loggers: list[FoundLogger]
    devices: list[Device]
    model: ModelReport | None
    problems: list[str]


def add_doctor(commands: Any) -> None:
    """Add the command to the subparsers."""
    parser = commands.add_parser(
        "doctor",
        help="what is installed here, what it can do, and whether a model can be scored",
        description="Looks at versions, loggers and devices, and at a model's configuration.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", metavar="DIR", help="a folder with a config.json or adapter_config.json, or a hub id"
    )
    parser.add_argument("--json", action="store_true", help="the same facts as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the findings; returns the exit code."""
    findings = examine(options.model)
    print(json.dumps(asdict(findings), indent=2) if options.json else as_text(findings))
    return 1 if findings.problems else 0


def examine(model: str | None = None) -> Findings:
    """Look at what is here, and at a model.

    Args:
        model: its folder or hub id.

    """
    packages = find_packages()
    problems = problems_of(packages)
    devices: list[Device] = []
    if find_spec("torch") is not None:
        from ntps_lightning.command.devices import find_devices

        devices = find_devices()
        problems += [f"{device.name} {device.problem}" for device in devices if device.problem]
    report = None if model is None else look_at_model(model, [device.name for device in devices if device.sums])
    problems += report.problems if report else []
    return Findings(packages, find_loggers(), devices, report, problems)
