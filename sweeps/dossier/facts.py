"""What is known of a study or run that a dossier is of."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.encoding import read_json
from engine.errors import DataError
from engine.files import read_text
from engine.result import Result
from engine.synthesis.files import FOLDER
from sweeps.drawing import ONLY
from sweeps.folder import is_study
from sweeps.material import Finished, best_of_each, read_material
from sweeps.rows import rows_of


@dataclass(frozen=True)
class Facts:
    """
    Attributes:
        name: of the study or run.
        best: the best trial of each condition and method, or the run.
        results: of all complete trials.
        attacks: figures of the membership inference against each batch of synthetic beats: where, AUC or why there is none.
    """

    name: str
    best: Sequence[Finished]
    results: Sequence[Result]
    attacks: Sequence[tuple[str, str]]

    @property
    def used(self) -> Mapping[str, bool]:
        """What measures depend on -> whether every finished run made use of it."""

        def all_of(test: Callable[[Result], bool]) -> bool:
            return all(test(result) for result in self.results)

        return {
            "ledger": all_of(lambda r: r.ledger.backend != "none"),
            "keystore": all_of(lambda r: r.config.ledger.backend != "none" and r.config.ledger.keystore is not None),
            "privacy": all_of(lambda r: r.privacy is not None),
            "secret key": all_of(lambda r: r.privacy is not None and r.privacy.secret == "key"),
            "synthesis": all_of(lambda r: r.synthesis is not None),
            "robust rule": all_of(lambda r: r.config.aggregation.rule != "mean"),
        }


def facts_of(folder: Path) -> Facts:
    """
    Raises:
        PulseLedgerError: the folder holds neither a study nor a finished run, or nothing has finished.
    """
    if is_study(folder):
        material = read_material(folder)
        trials = list(material.trials)
        name = material.study.name
    else:
        (row,) = (replace(row, condition=ONLY) for row in rows_of(folder))
        result = Result.read(folder)
        assert row.outcome is not None
        curve = tuple(summary.validation.macro_f1 for summary in result.rounds)
        trials = [Finished(row, row.outcome, {}, (result.model_copy(update={"rounds": ()}),), (curve,))]
        name = result.name
    if not trials:
        raise DataError(f"{folder}: no trial has finished, so there is nothing to write a dossier of.")
    results = [result for trial in trials for result in trial.results]
    return Facts(name, best_of_each(trials), results, list(_attacks(folder)))


def _attacks(folder: Path) -> Iterable[tuple[str, str]]:
    """Out of the evidence on synthetic beats."""
    for path in sorted(
        (*folder.glob(f"{FOLDER}/evidence-*.json"), *folder.glob(f"trials/*/seed-*/{FOLDER}/evidence-*.json"))
    ):
        where = str(path.relative_to(folder))
        try:
            found = read_json(read_text(path, 1 << 20))
        except (OSError, ValueError):
            yield where, "the evidence cannot be read"
            continue
        privacy = found.get("privacy") if isinstance(found, dict) else None
        auc = privacy.get("membership_auc", privacy) if isinstance(privacy, dict) else None
        if isinstance(auc, float | int):
            yield where, f"{auc:.3f}"
        else:
            yield where, f"not computable: {auc.get('not_computable') if isinstance(auc, dict) else 'no evidence'}"
