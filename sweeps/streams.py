"""Standard output and error as a program may find them: closed, or in an encoding that lacks a letter."""

import contextlib
import os
import sys


def usable_streams() -> None:
    """Opens what is closed on nothing, so that no file takes its place, and replaces letters that cannot be shown."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w", closefd=False))
        with contextlib.suppress(AttributeError, ValueError, OSError):
            getattr(sys, name).reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """A line on stderr, if anybody is there."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)
