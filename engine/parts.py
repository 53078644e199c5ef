"""Every part that a configuration names, made once before any long work, so that what is wrong with one is told first."""

from engine.aggregation.build import rule_of
from engine.config import RunConfig


def require_parts(config: RunConfig) -> None:
    """
    Raises:
        PulseLedgerError: a part of the user's own cannot be loaded, does not take what it is given, or is none.
    """
    rule_of(config)  # and with it the algorithm
