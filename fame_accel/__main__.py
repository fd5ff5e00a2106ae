"""`python -m fame_accel`: the command fame-accel."""

import sys

from fame_accel.cli import main

if __name__ == "__main__":
    sys.exit(main())
