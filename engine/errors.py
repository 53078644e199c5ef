"""Errors with a story: a user's mistake is one sentence, a failure names hospital, round and stage."""

from collections.abc import Sequence


class PulseLedgerError(Exception):
    """Base of every error that this project raises on purpose."""


class ConfigError(PulseLedgerError):
    """A setting is wrong. The message is one sentence naming the key and what is allowed."""


class DataError(PulseLedgerError):
    """A record or folder cannot be used. The message is one sentence naming the file."""


class ResourceError(PulseLedgerError):
    """What was asked for does not fit on this machine or cluster: says what was wanted and what there is."""


class LedgerError(PulseLedgerError):
    """The ledger refuses: chain and journal contradict, a node is unreachable, a signature is wrong."""


class SynthesisError(PulseLedgerError):
    """A generator cannot make the beats that were asked for. The message is one sentence: the reason of a denial."""


class NotTrusted(PulseLedgerError):
    """A folder names a server that its reader has not named as trusted; nothing was sent there."""


class PrivacyError(PulseLedgerError):
    """A privacy budget is spent, or something was asked for that no account can be kept of."""


class MaskError(PulseLedgerError):
    """A step of secure aggregation is refused: too few hospitals, a signature, key, share or set that is not what it must be."""


class StudyError(PulseLedgerError):
    """A study cannot go on: another driver holds it, or its definition changed."""


class Stopped(PulseLedgerError):
    """Somebody asked a run to end at its next checkpoint."""


class ReviewPending(PulseLedgerError):
    """A run waits for a human decision on synthetic beats; its folder is whole, and `resume` goes on."""


class HospitalError(PulseLedgerError):
    """One hospital failed.

    Attributes:
        hospital: id of the hospital.
        round: number of the round, from 1; 0 before the first.
        stage: what it was doing, such as "train" or "evaluate".
        trace: the traceback where it happened, which does not travel between processes by itself.
    """

    def __init__(self, hospital: int, round: int, stage: str, cause: str, trace: str = "") -> None:
        super().__init__(f"hospital {hospital}, round {round}, {stage}: {cause}")
        self.hospital = hospital
        self.round = round
        self.stage = stage
        self.cause = cause
        self.trace = trace

    def __reduce__(self):  # type: ignore[no-untyped-def]
        # The default pickles only the message, which would lose the fields on the way through Ray.
        return type(self), (self.hospital, self.round, self.stage, self.cause, self.trace)


def first_of(failed: Sequence[HospitalError]) -> HospitalError:
    """The first of several failures; where others failed for the same reason, it names them: so one that differs stands alone."""
    first = failed[0]
    alike = [
        str(one.hospital)
        for one in failed
        if (one.round, one.stage, one.cause) == (first.round, first.stage, first.cause)
    ]
    if len(alike) < 2:
        return first
    names = f"{', '.join(alike[:-1])} and {alike[-1]}"
    return type(first)(
        first.hospital, first.round, first.stage, f"{first.cause} (so say hospitals {names})", first.trace
    )


class HospitalLost(HospitalError):
    """A hospital's process died or gave no answer, again and again: nothing is known to be wrong with its work."""
