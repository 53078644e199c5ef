"""What the driver of a study puts on the ledger: the design, and the beginning and the end of every trial."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import sweeps.registration as registration
from engine.background import Answer, Background
from engine.ledger.subjects.study import StudyLedger
from sweeps.folder import trial_folder
from sweeps.records import read_records
from sweeps.space import StudyConfig
from sweeps.stored import StoredTrial
from sweeps.tuned import total_trials

Tags = dict[str, str]


class Anchors(Protocol):
    """Where beginnings and ends are recorded; what is refused ends the study at the next look."""

    def register(self, study: StudyConfig, trials: Sequence[StoredTrial]) -> None:
        """The design and number of trials, before the first one, and what a killed driver did not get to."""
        ...

    def begun(self, trial: StoredTrial) -> None: ...

    def ended(self, trial: StoredTrial) -> None: ...

    def look(self) -> None:
        """Raises what was refused meanwhile."""
        ...

    def finish(self) -> Tags:
        """Waits for everything; returns what MLflow is told of it."""
        ...

    def abandon(self) -> None:
        """Lets go, whatever is under way."""
        ...


class NoAnchors:
    """Of a study without a ledger."""

    def register(self, study: StudyConfig, trials: Sequence[StoredTrial]) -> None:
        pass

    def begun(self, trial: StoredTrial) -> None:
        pass

    def ended(self, trial: StoredTrial) -> None:
        pass

    def look(self) -> None:
        pass

    def finish(self) -> Tags:
        return {}

    def abandon(self) -> None:
        pass


class LedgerAnchors:
    """The study's own ledger, written beside the trials."""

    def __init__(self, study: StudyConfig, folder: Path, key: str) -> None:
        """Args: key names the study, wherever its folder is moved."""
        self._folder = folder
        self._ledger = Background(StudyLedger, folder / "ledger", key, study.ledger, actor=False)
        self._answers: list[Answer[None]] = []

    def register(self, study: StudyConfig, trials: Sequence[StoredTrial]) -> None:
        design = registration.design(study, read_records(self._folder))
        self._ledger.submit(StudyLedger.register, design, total_trials(study)).result()
        recorded = self._ledger.submit(StudyLedger.recorded).result()
        for trial in sorted(trials, key=lambda trial: trial.number):
            if (trial.number, False) not in recorded:
                self.begun(trial)
            if trial.ended and (trial.number, True) not in recorded:
                self.ended(trial)

    def begun(self, trial: StoredTrial) -> None:
        self._record(trial.number, "BEGUN", registration.begun(trial))

    def ended(self, trial: StoredTrial) -> None:
        self._record(trial.number, *registration.ended(trial, trial_folder(self._folder, trial.number)))

    def look(self) -> None:
        while self._answers and self._answers[0].done():
            self._answers.pop(0).result()

    def finish(self) -> Tags:
        for answer in self._answers:
            answer.result()
        self._answers = []
        summary = self._ledger.submit(StudyLedger.summary).result()
        self._ledger.close()
        return {f"ledger.{name}": str(summary[name]) for name in ("head", "contract", "chain_id", "backend")}

    def abandon(self) -> None:
        self._ledger.abandon()

    def _record(self, trial: int, stage: str, content: dict[str, object]) -> None:
        self._answers.append(self._ledger.submit(StudyLedger.record, trial, stage, content))


def open_anchors(study: StudyConfig, folder: Path, key: str) -> Anchors:
    """The study's ledger, if it has one."""
    return NoAnchors() if study.ledger.backend == "none" else LedgerAnchors(study, folder, key)
