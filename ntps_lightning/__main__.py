"""``python -m ntps_lightning``, the same as ``ntps``."""

import sys

from ntps_lightning.command.main import main

if __name__ == "__main__":
    sys.exit(main())
