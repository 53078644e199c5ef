"""Studies: many federations, compared over conditions and tuned within them.

from pulseledger import Study

study = Study("ready:quickstart", out="runs/mine", trials=12).run()
study.results()    # a pandas DataFrame
"""

# Imports are inside the methods, so that the command line's --help is quick.
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from sweeps.space import StudyConfig

__all__ = ["Study"]


class Study:
    """A study and its folder: what `pulseledger sweep`, `resume` and `compare` do, for Python.

    Attributes:
        folder: where everything is written.
        config: the checked configuration.
    """

    folder: Path
    config: "StudyConfig"

    def __init__(
        self,
        config: "str | Path | Mapping[str, Any] | StudyConfig",
        out: str | Path | None = None,
        quiet: bool = False,
        **keys: Any,
    ) -> None:
        """
        Args:
            config: a YAML file, the name of a ready-made one such as "ready:quickstart", the folder of a study that was
                begun, or the values themselves.
            out: the folder; null: `out` of the configuration, else runs/NAME.
            quiet: show no progress.
            keys: values put over those of `config`; a dotted key has two underscores: federation__rounds=5.

        Raises:
            ConfigError: a sentence about each thing that is wrong.
        """
        from sweeps.checks import load_study
        from sweeps.source import given, out_folder
        from sweeps.space import StudyConfig

        self._quiet = quiet
        settings = given(config, keys, StudyConfig, "Study")
        self.config = load_study(settings.values, settings.source, settings.flags)
        if out is None and isinstance(config, str | Path) and Path(config).expanduser().is_dir():
            out = config
        self.folder = Path(out).expanduser() if out else out_folder(self.config)

    def run(self) -> "Study":
        """Runs the study until every wanted trial has ended, or goes on with the same one in the folder.

        Raises:
            StudyError: another driver holds the folder, it holds another study, or the first trials all failed.
            ResourceError: a trial does not fit on the machine or cluster.
        """
        from sweeps.start import start_study

        start_study(self.config, self.folder, quiet=self._quiet)
        return self

    def resume(self, trials: int | None = None) -> "Study":
        """Goes on with the study of the folder, as its own file says; `trials` that it is to have from now on."""
        from sweeps.start import resume_study

        resume_study(self.folder, quiet=self._quiet, trials=trials)
        return self

    def results(self) -> "pd.DataFrame":
        """A row for each trial; per condition, best first."""
        from sweeps.rows import results_frame

        return results_frame(self.folder)

    def rounds(self) -> "pd.DataFrame":
        """The learning curves: a row for each round of each repeat of each trial."""
        from sweeps.rows import rounds_frame

        return rounds_frame(self.folder)

    def hospitals(self) -> "pd.DataFrame":
        """A row for each hospital of each repeat of each complete trial."""
        from sweeps.rows import hospitals_frame

        return hospitals_frame(self.folder)

    def best(self, condition: str | None = None) -> "pd.Series":
        """The best complete trial by the first objective, of all or of one condition: its row of `results`.

        Trials that break a constraint do not count.

        Raises:
            StudyError: there is none, or no such condition.
        """
        from engine.errors import StudyError

        table = self.results()
        labels = list(dict.fromkeys(table["condition"])) if len(table) else []
        if condition is not None and condition not in labels:
            raise StudyError(
                f"{condition!r} is no condition of this study; there are: {'; '.join(labels) or 'none yet'}."
            )
        if len(table):
            table = table[(table["state"] == "COMPLETE") & (table["violated"] == "[]")]
            table = table[table["condition"] == condition] if condition is not None else table
        if not len(table):
            raise StudyError(f"{self.folder}: holds no complete trial that keeps to the constraints.")
        name, direction = next(iter(self.config.objectives.items()))
        values = table[f"objective/{name}"]
        return table.loc[values.idxmax() if direction == "maximize" else values.idxmin()]
