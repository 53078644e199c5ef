"""`python -m pulseledger VERB ...`, the same as the command."""

from sweeps.__main__ import program

if __name__ == "__main__":
    program()
