"""What the first trial needs of this machine, made while Ray starts: the beats, the kernel, the ledger's virtual machine."""

import contextlib
from collections.abc import Callable

from engine.data.load import load
from engine.ledger.chain.embedded import EmbeddedChain
from engine.model import build_network
from engine.oracles.build import choose_oracle
from sweeps.space import StudyConfig, conditions, resolve


def warm(study: StudyConfig, note: Callable[[str], None]) -> None:
    """Fills the caches for the first condition; what does not work is left to the trial, which says what is wrong."""
    with contextlib.suppress(Exception):
        config = resolve(study, conditions(study)[0], {}, 0)
        beats = load(config.data, note)
        network = build_network(config.model, *beats.shape, beats.rr.shape[1], len(beats.classes))
        choose_oracle(config.execution, network, lambda text: None)
        if study.ledger.backend == "embedded":
            EmbeddedChain().close()  # the driver registers the study on one of its own
