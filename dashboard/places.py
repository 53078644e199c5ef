"""The studies, runs and bundles that the dashboard was started on. A page names one by its id; no path comes from outside.

Ids are made here, of what was found: `quickstart` is a study, `quickstart.0003.1` the second repeat of its trial 3. What a link
leads out of a folder that was named is refused, whoever put it there.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from engine.errors import DataError
from engine.ledger.format import CONFIG
from engine.result import RESULT
from sweeps.folder import STUDY_FILE, repeat_folder, repeats_of, trial_folder

Kind = Literal["study", "run", "bundle"]
DEEP = 3  # folders below a named one that are looked through
MOST = 2_000  # studies and runs that are listed
ENTRIES = 400_000  # files of a study that are looked at for links
OF_A_STUDY = re.compile(r"([a-z0-9-]+)\.(\d{4,6})\.(0|[1-9]\d{0,5})")
SKIPPED = ("artifacts", "trials", "ledger", "synthetic", "report", "commands", "own")


class NotThere(Exception):
    """There is no such place."""


class Place(NamedTuple):
    """A study, a run, or a bundle.

    Attributes:
        id: names it in addresses.
        name: of its folder, for people.
        root: the named folder that it lies in; nothing out of it is read.
    """

    id: str
    name: str
    kind: Kind
    path: Path
    root: Path


class Places:
    """All places below some folders, as they are now."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """
        Raises:
            DataError: a folder is not there.
        """
        for folder in folders:
            if not folder.is_dir():
                raise DataError(f"{folder}: is no folder; name one of a study, of a run, or with some of them.")
        self._roots = [folder.resolve() for folder in dict.fromkeys(folders)]
        self._given: dict[str, Place] = {}

    def all(self) -> list[Place]:
        """Studies and runs, those of a study not among them, and bundles that were brought."""
        found: dict[str, Place] = {}
        for root in self._roots:
            for path, kind in _below(root, root, DEEP):
                name = root.name if path == root else path.relative_to(root).as_posix()
                base = id = _slug(name)
                number = 2
                while id in found:
                    id, number = f"{base}-{number}", number + 1
                found[id] = Place(id, name, kind, path, root)
                if len(found) >= MOST:
                    break
        return [*found.values(), *self._given.values()]

    def get(self, id: str) -> Place:
        """A place by its id, one of whose files was looked at for links that lead out of its root.

        Raises:
            NotThere: there is none.
            DataError: a link leads out.
        """
        found = OF_A_STUDY.fullmatch(id)
        base = next((place for place in self.all() if place.id == (found[1] if found else id)), None)
        if base is None or (found and base.kind != "study"):
            raise NotThere
        if not found:
            return _closed(base)
        trial, repeat = int(found[2]), int(found[3])
        path = repeat_folder(trial_folder(base.path, trial), repeat)
        if not path.is_dir() or f"{trial:04d}" != found[2]:
            raise NotThere
        return _closed(Place(id, f"{base.name}, trial {trial}, seed {repeat}", "run", path, base.root))

    def runs(self, study: Place, trial: int) -> list[Place]:
        """The repeats of a trial that were begun."""
        repeats = repeats_of(trial_folder(study.path, trial))
        return [
            Place(f"{study.id}.{trial:04d}.{n}", f"seed {n}", "run", path, study.root) for n, path in enumerate(repeats)
        ]

    def give(self, name: str, path: Path) -> Place:
        """Takes up a bundle that was brought."""
        id = f"bundle-{len(self._given) + 1}"
        self._given[id] = place = Place(id, name, "bundle", path, path.parent)
        return place


def _below(folder: Path, root: Path, deep: int) -> Iterator[tuple[Path, Kind]]:
    if (folder / STUDY_FILE).is_file():
        yield folder, "study"
        return
    if (folder / CONFIG).is_file() and ((folder / "ledger").is_dir() or (folder / RESULT).exists()):
        yield folder, "run"
        return
    if deep == 0:
        return
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:  # it has gone since, or is closed to this user
        return
    for name in names:
        if not name.startswith(".") and name not in SKIPPED:
            yield from _below(folder / name, root, deep - 1)


def _closed(place: Place) -> Place:
    """The place itself, unless it has a link that leads out of its root."""
    if not place.path.resolve().is_relative_to(place.root):
        raise NotThere
    seen = 0
    for folder, names, files in os.walk(place.path, followlinks=False):
        if "artifacts" in names:
            names.remove("artifacts")  # MLflow's, which no page reads
        seen += len(names) + len(files)
        if seen > ENTRIES:
            raise DataError(f"{place.name}: holds more than {ENTRIES} files, and is not shown.")
        for name in (*names, *files):
            path = Path(folder) / name
            if path.is_symlink() and not path.resolve().is_relative_to(place.root):
                raise DataError(
                    f"{path.relative_to(place.root)}: is a link out of the folder, so nothing here is read."
                )
    return place


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:60].strip("-") or "place"
