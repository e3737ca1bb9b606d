"""Run the command line with `python -m wyoming_rknn`."""

import sys

from wyoming_rknn.cli import main

if __name__ == "__main__":
    sys.exit(main())
