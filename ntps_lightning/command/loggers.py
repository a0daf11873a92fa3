"""Which of Lightning's loggers can be used here, and which of them show figures."""

from __future__ import annotations

from dataclasses import dataclass

from ntps_lightning.command.packages import installed_version

# The packages that each is content with, of which one is enough, and whether it takes figures
# (:func:`ntps_lightning.figures.log_figure`).
LOGGERS = {
    "csv": ((), False),
    "tensorboard": (("tensorboard", "tensorboardX"), True),
    "wandb": (("wandb",), True),
    "mlflow": (("mlflow", "mlflow-skinny"), True),
}


@dataclass(frozen=True)
class FoundLogger:
    """A logger.

    Args:
        name: of its package.
        installed: which of its packages is here, and its version.
        usable: whether it can be used.
        figures: whether it will show figures: it takes them, and matplotlib is here to draw them.
        mend: the line that installs what is missing for either.

    """

    name: str
    installed: str
    usable: bool
    figures: bool
    mend: str


def find_loggers() -> list[FoundLogger]:
    """All loggers that take the numbers."""
    draws = installed_version("matplotlib") is not None
    return [_logger(name, packages, takes_figures, draws) for name, (packages, takes_figures) in LOGGERS.items()]


def _logger(name: str, packages: tuple[str, ...], takes_figures: bool, draws: bool) -> FoundLogger:
    versions = {package: installed_version(package) for package in packages}
    here = [f"{package} {version}" for package, version in versions.items() if version]
    usable = bool(here) or not packages
    missing = [*([] if usable else packages[:1]), *(["matplotlib"] if takes_figures and not draws else [])]
    mend = f"pip install {' '.join(missing)}" if missing else ""
    return FoundLogger(name, here[0] if here else "", usable, usable and takes_figures and draws, mend)
