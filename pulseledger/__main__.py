"""`python -m pulseledger VERB ...`, the same as the command."""

import sys

from sweeps.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
