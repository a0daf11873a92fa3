"""What is run from a shell: ``ntps COMMAND``, or ``python -m ntps_lightning COMMAND``."""
