"""Which calls of a Trainer are one run, whose results belong together."""

from __future__ import annotations

import weakref
from typing import Any

from torch import nn


class Run:
    """A Trainer, and the module that it fits: validations belong to the run that there is, by whatever Trainer.

    Neither Trainer nor module lives longer for it.

    Args:
        trainer: the Lightning trainer.

    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = weakref.ref(trainer)
        self._module: weakref.ref[nn.Module] | None = None

    @property
    def fitted(self) -> bool:
        """Whether a module has been, or is."""
        return self._module is not None

    def is_of(self, trainer: Any) -> bool:
        """Whether it is this Trainer's."""
        return self._trainer() is trainer

    def fits(self, module: nn.Module) -> None:
        """The module is fitted."""
        self._module = weakref.ref(module)

    def goes_on(self, trainer: Any, module: nn.Module) -> bool:
        """Whether this fit is of the same run; what was only validated before may have been an equal module."""
        return self._trainer() is trainer and (self._module is None or self._module() is module)
