"""``python -m pix2gan`` is the command ``pix2gan``."""

import sys

from pix2gan.cli import main

if __name__ == "__main__":
    sys.exit(main())
