"""What tells a run that cannot be measured as it is set up from one where a measurement went wrong."""


class SetupError(ValueError):
    """The run, as it is set up, cannot be measured: raised while nothing is lost by stopping."""
