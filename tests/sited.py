"""A federation of sites in one process, for tests: records and certificates of each, a coordinator, and sites on threads.

federation = made(tmp_path)
result = federation.run(federation.sited(federation.config(tiny_config)), tmp_path / "run")
"""

import contextlib
import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.data.simulate import write_records
from engine.errors import PulseLedgerError
from engine.experiment import HERE, Place, run
from engine.ledger.keystore import create_keystore, create_reviewer
from engine.result import Result
from engine.sites.authority import COORDINATOR, certificate_path, credentials, hospital_name, issue
from engine.sites.site import Home, Line, serve

PASSWORD = "a test's"


class Killed(BaseException):
    """The process of a site is gone."""


@dataclass
class Federation:
    """Folders below `home`: `all` with everybody's records, `keys` of the coordinator, `site-0` and so on.

    Attributes:
        sent: (hospital, name of the call, bytes) of each message that left a site.
        troubles: what ended a site before the run was over.
        dies: hospital and number of messages that have left it -> whether its process is killed before the next one; it is
            started again, with what lies in its folder.
        patience: seconds that a site waits for a coordinator.
        way: hospital and port of the coordinator -> the port that its site connects to.
    """

    home: Path
    hospitals: int
    plain: bool = True
    note: Callable[[str], None] = lambda text: None
    sent: list[tuple[int, str, bytes]] = field(default_factory=list)
    troubles: list[BaseException] = field(default_factory=list)
    dies: Callable[[int, int], bool] = lambda hospital, messages: False
    kills: int = 0
    patience: float = 1.0
    way: Callable[[int, int], int] = lambda hospital, port: port

    def site(self, hospital: int) -> Path:
        """The folder of a site: records, keys and what it keeps are in it."""
        return self.home / f"site-{hospital}"

    def config(self, build: Callable[..., RunConfig], **changes: Any) -> RunConfig:
        """A run of these hospitals."""
        keys = {
            "data.source": "folder",
            "data.folder": str(self.home / "all"),
            "data.patients": "(.*)",
            "cohort.hospitals": self.hospitals,
            "cohort.partition": "consecutive",
        }
        return build(**{**keys, **changes})

    def sited(self, config: RunConfig, **execution: Any) -> RunConfig:
        """The same run with its hospitals at their sites."""
        where = {"pool": "sites", "listen": "127.0.0.1:0", "certificates": str(self.home / "keys"), **execution}
        return config.model_copy(update={"execution": config.execution.model_copy(update=where)})

    def run(self, config: RunConfig, folder: Path, place: Place = HERE, hospitals: Any = None) -> Result:
        """A run with sites on threads, which join as soon as the coordinator listens."""
        ports: queue.Queue[int] = queue.Queue()

        def note(text: str) -> None:
            if " at port " in text:
                ports.put(int(text.rpartition(" ")[2]))

        stop = threading.Event()
        threads = [
            threading.Thread(target=self._live, args=(h, ports, stop), daemon=True)
            for h in (range(self.hospitals) if hospitals is None else hospitals)
        ]
        for thread in threads:
            thread.start()
        try:
            return run(config, folder, replace(place, note=note))
        finally:
            stop.set()
            for _ in threads:
                ports.put(0)
            for thread in threads:
                thread.join(20)

    def _live(self, hospital: int, ports: "queue.Queue[int]", stop: threading.Event) -> None:
        port = ports.get()
        ports.put(port)
        while port and not stop.is_set():
            try:
                with self.line(hospital, port) as line:
                    serve(line, self.at(hospital), patience=self.patience, note=self.note)
                return
            except Killed:
                self.kills += 1
            except PulseLedgerError as trouble:
                self.troubles.append(trouble)
                return

    def at(self, hospital: int) -> Home:
        """A site's own."""
        own = self.site(hospital)
        return Home(hospital, own / "records", own / "keys", own / "kept", plain=self.plain)

    @contextlib.contextmanager
    def line(self, hospital: int, port: int) -> Iterator[Line]:
        """A site's connection, every message of which is written down."""
        own = credentials(self.site(hospital) / "keys", hospital_name(hospital))

        def seen(name: str, data: bytes) -> None:
            if self.dies(hospital, sum(one[0] == hospital for one in self.sent)):
                self.sent.append((hospital, "killed", b""))
                raise Killed
            self.sent.append((hospital, name, data))

        line = Line(f"127.0.0.1:{self.way(hospital, port)}", own, seen)
        try:
            yield line
        finally:
            line.close()


def made(home: Path, hospitals: int = 3, keystore: bool = False, patients: int = 6) -> Federation:
    """Records of six patients, parted in their order; certificates; with `keystore`, keys of a ledger, too."""
    every = home / "all"
    write_records(every, patients, seed=0, minutes=1.5)
    keys = home / "keys"
    if keystore:
        create_keystore(keys, hospitals, password=PASSWORD, work=2)
        create_reviewer(keys, "reviewers", PASSWORD, work=2)
    issue(keys, [COORDINATOR, *map(hospital_name, range(hospitals))], PASSWORD)
    names = sorted(path.stem for path in every.glob("*.hea"))
    for hospital in range(hospitals):
        records, own = (home / f"site-{hospital}" / name for name in ("records", "keys"))
        records.mkdir(parents=True)
        own.mkdir()
        for name in names[hospital * len(names) // hospitals : (hospital + 1) * len(names) // hospitals]:
            for path in every.glob(f"{name}.*"):
                shutil.copy(path, records)
        shutil.copy(keys / "authority.pem", own)
        shutil.move(certificate_path(keys, hospital_name(hospital)), own)
        if keystore:
            shutil.move(keys / f"hospital-{hospital:04d}.json", own)
    return Federation(home, hospitals)
