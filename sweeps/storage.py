"""Where a study's trials are kept: an SQLite file in its folder, or a PostgreSQL database for a cluster.

Only the driver writes there. On PostgreSQL all its work goes through one connection that also holds an advisory lock, so
a driver that lost its connection lost its lock, and cannot write again before it has it back. Readers are refused any
write by the database itself: SQLite is opened as read-only, a transaction on PostgreSQL is.
"""

import abc
import contextlib
import hashlib
import os
import re
import secrets
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
import sqlalchemy.exc
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState

from engine import databases
from engine.clock import REAL, Clock
from engine.errors import StudyError
from engine.files import whole
from engine.paths import sqlite_uri
from sweeps.space import StudyConfig
from sweeps.text import first_line
from sweeps.trust import driven, require_trusted

DATABASE = "optuna.db"  # in a study's folder
AWAY_SECONDS = 600.0  # that a database may be away before the driver stops
_TABLES = {"alembic_version", "studies", "trials"}  # that others may have, too
LOCK_SECONDS = 5.0  # that SQLite itself waits for another program
PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)  # seconds between attempts; the last one is repeated
# A connection that died without a word is noticed within a minute at both ends.
CONNECT: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
    "options": "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3",
}
# Revisions that Optuna has found to be those of this release: to look again reads all its migrations, ten times the rest.
_OWN: set[str] = set()
_READ_ONLY = "-c default_transaction_read_only=on"
ANSWER_SECONDS = 60.0  # for one answer of PostgreSQL; one that is frozen keeps its connections


def storage_url(study: StudyConfig, folder: Path) -> str:
    """The address of the study's Optuna database; holds no password, which comes from PGPASSWORD or ~/.pgpass."""
    return study.storage or sqlite_uri((folder / DATABASE).resolve())


def connecting(address: str, only_reading: bool = False) -> dict[str, Any]:
    """What PostgreSQL's driver is given with an address, whose own parameters come before ours."""
    query = sqlalchemy.make_url(address).query
    own = query.get("options", ())
    said = [CONNECT["options"], *((own,) if isinstance(own, str) else own), *([_READ_ONLY] if only_reading else [])]
    return {**{name: value for name, value in CONNECT.items() if name not in query}, "options": " ".join(said)}


def connector(
    address: str, only_reading: bool = False, name: str = "pulseledger", seconds: float = ANSWER_SECONDS
) -> Callable[[], Any]:
    """What connects to PostgreSQL; each answer of the server must come within so many seconds.

    Args:
        name: of the program, as the server shows it.
    """
    import psycopg

    class Answering(psycopg.Connection):
        def wait(self, gen: Any, *args: Any, **named: Any) -> Any:
            return super().wait(self._timed(gen), *args, **named)

        def _timed(self, gen: Any) -> Any:
            """The steps of an answer; psycopg looks every moment, whether or not there is something."""
            end = time.monotonic() + seconds
            try:
                wanted = next(gen)
                while True:
                    ready = yield wanted
                    if not ready and time.monotonic() > end:
                        self.pgconn.finish()
                        raise psycopg.OperationalError(f"it has not answered for {seconds:g} s")
                    wanted = gen.send(ready)
            except StopIteration as stop:
                return stop.value

    # the driver's own words for the same address; SQLAlchemy has put its dialect into the scheme
    plain = address.replace("+psycopg", "", 1)
    return lambda: Answering.connect(plain, application_name=name, **connecting(address, only_reading))


def hush_optuna() -> None:
    """Has Optuna say warnings only: it tells of each study that is made, also of one in memory."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@contextlib.contextmanager
def reading_storage(study: StudyConfig, folder: Path) -> Iterator[BaseStorage | None]:
    """The study's storage for a reader, or None where no driver has finished making it. Not a byte is written.

    Raises:
        StudyError: the database cannot be used.
        NotTrusted: the folder names a server that the user has not.
    """
    hush_optuna()
    if study.storage is not None:
        require_trusted(study.storage, "storage", folder)
    with one_sentence(study, folder), contextlib.ExitStack() as stack:
        options: dict[str, Any] = {}
        if study.storage is not None:
            options = {"creator": connector(study.storage, only_reading=True)}
        else:
            _require_whole(folder)
            if not (folder / DATABASE).exists():
                yield None
                return
            options = {"creator": stack.enter_context(databases.reader(folder / DATABASE))}
        url = storage_url(study, folder)
        engine = sqlalchemy.create_engine(url, **options)
        stack.callback(engine.dispose)
        with engine.connect() as connection:
            # Optuna writes its version last; to open a storage without one would write it
            made = sqlalchemy.inspect(connection).has_table("alembic_version")
            if not made or connection.execute(sqlalchemy.text("SELECT 1 FROM alembic_version")).first() is None:
                yield None
                return
        opened = _open(url, options, skip_table_creation=True)
        stack.callback(opened.engine.dispose)
        stack.callback(opened.remove_session)
        yield opened


@contextlib.contextmanager
def driver_storage(
    study: StudyConfig,
    folder: Path,
    say: Callable[[str], None],
    clock: Clock = REAL,
    away_seconds: float = AWAY_SECONDS,
    lock_seconds: float = LOCK_SECONDS,
    answer_seconds: float = ANSWER_SECONDS,
) -> Iterator[BaseStorage]:
    """The study's storage for its only driver, until the end of the `with` block.

    Calls that fail because the server is away, or because another program has locked the SQLite file, are repeated for
    `away_seconds`.

    Raises:
        StudyError: another driver has the study, in whatever folder; or the database cannot be used.
    """
    hush_optuna()
    with one_sentence(study, folder):
        if study.storage is None:
            _require_whole(folder)
            file = _opened_file(folder / DATABASE, say, clock, away_seconds, lock_seconds)
            try:
                yield Patient(optuna.storages.get_storage(file), say, clock, away_seconds)  # type: ignore[abstract]
            finally:
                file.remove_session()
                file.engine.dispose()
            return
        driven(study.storage)
        lock = _Lock(study.name, clock)
        connected = connector(study.storage, name=lock.owner, seconds=answer_seconds)
        # makes the tables, and checks their version, for which Optuna wants two connections
        _open(study.storage, {"creator": connected}).engine.dispose()

        def connect() -> Any:
            made = connected()
            try:
                lock.take(made)
            except BaseException:
                made.close()
                raise
            return made

        alone = {"creator": connect, "pool_size": 1, "max_overflow": 0}
        opened = RDBStorage(study.storage, alone, skip_compatibility_check=True)
        sqlalchemy.event.listen(opened.engine, "handle_error", _note_absence)
        try:
            yield Patient(optuna.storages.get_storage(opened), say, clock, away_seconds)  # type: ignore[abstract]
        finally:
            opened.remove_session()
            opened.engine.dispose()


def _require_whole(folder: Path) -> None:
    """
    Raises:
        StudyError: trials have ended here, and what they were is gone with their database.
    """
    path = folder / DATABASE
    if (not path.exists() or not path.stat().st_size) and any(folder.glob("trials/*/seed-*/result.json")):
        how = "is empty" if path.exists() else "is gone"
        raise StudyError(
            f"{path}: {how}, while trials/ holds results; put it back, or begin the study again in another folder."
        )


def _opened_file(
    path: Path, say: Callable[[str], None], clock: Clock, away_seconds: float, lock_seconds: float
) -> RDBStorage:
    """The SQLite file of a folder that is held; it appears whole or not at all."""
    for half in path.parent.glob(f".{path.name}.*"):
        half.unlink(missing_ok=True)
    if not path.exists():
        with whole(path, error=StudyError) as part:
            _open(sqlite_uri(part.resolve()), None).engine.dispose()

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path.resolve(), timeout=lock_seconds, check_same_thread=False)

    end, told = clock.now() + away_seconds, False
    while True:
        try:
            made = _open(sqlite_uri(path.resolve()), {"creator": connect})
            break
        except sqlalchemy.exc.OperationalError as error:
            if not _locked(error.orig) or clock.now() > end:
                raise
            if not told:
                say(f"{path}: is locked by another program, waiting up to {away_seconds:g} s")
            told = True
            clock.sleep(PAUSES[-1])
    sqlalchemy.event.listen(made.engine, "handle_error", _note_lock)
    return made


def _locked(error: Any) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def _note_lock(context: Any) -> None:
    if _locked(context.original_exception):
        raise Away(f"{first_line(context.original_exception)} by another program") from context.original_exception


def _open(url: str, options: dict[str, Any] | None, skip_table_creation: bool = False) -> RDBStorage:
    revision = _require_optunas(url, options or {})
    try:
        opened = RDBStorage(url, options, revision in _OWN, skip_table_creation=skip_table_creation)
    except RuntimeError as error:  # the tables are those of another release of Optuna
        raise StudyError(f"{url}: cannot be used ({first_line(error)}).") from None
    _OWN.add(revision or opened.get_current_version())
    return opened


def _require_optunas(url: str, options: dict[str, Any]) -> str:
    """Optuna would make its tables between another program's, and then take them for those of another release.

    Returns:
        The revision of its tables, "" where there are none yet.

    Raises:
        StudyError: the database has tables with names of Optuna's that are not its own.
    """
    engine = sqlalchemy.create_engine(url, **options)
    try:
        with engine.connect() as connection:
            found = set(sqlalchemy.inspect(connection).get_table_names())
            wanted = sqlalchemy.text("SELECT version_num FROM alembic_version")
            revision = connection.execute(wanted).scalar() if "alembic_version" in found else ""
    finally:
        engine.dispose()
    if foreign := sorted(found & _TABLES if "version_info" not in found else ()):
        raise StudyError(
            f"{url}: cannot be used (its table {foreign[0]} is another program's; Optuna wants a database of its own, as MLflow does)."
        )
    return revision or ""


@contextlib.contextmanager
def one_sentence(study: StudyConfig, folder: Path) -> Iterator[None]:
    """Turns what the study's database raises into one sentence.

    Raises:
        StudyError: the database is damaged, full, not there, or refuses.
    """
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, sqlite3.Error, optuna.exceptions.StorageInternalError, Away) as error:
        own = isinstance(error, sqlalchemy.exc.SQLAlchemyError | sqlite3.Error)
        cause = error if own else error.__cause__ or error.__context__
        reason = getattr(cause, "orig", None) or cause or error
        where = study.storage or folder / DATABASE
        raise StudyError(f"{where}: cannot be used ({first_line(reason)}).") from None
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        raise StudyError("storage: PostgreSQL needs psycopg; install pulseledger[postgres].") from None


class _Lock:
    """PostgreSQL's advisory lock of a study, held by whichever connection took it last."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._clock = clock
        # names the driver to others in pg_stat_activity, which keeps 63 bytes
        self.owner = f"pulseledger {os.getpid()} {secrets.token_hex(4)} {socket.gethostname()}"[:63]
        self._name = name
        self._key = int.from_bytes(hashlib.sha256(f"pulseledger/{name}".encode()).digest()[:8], "big", signed=True)

    def take(self, connection: Any) -> None:
        """Takes the lock for a new connection.

        Raises:
            StudyError: another driver has it.
        """
        end = self._clock.now() + 10
        while True:
            with connection.cursor() as cursor:
                (mine,) = cursor.execute("SELECT pg_try_advisory_lock(%s)", (self._key,)).fetchone()
                holder = None if mine else cursor.execute(_HOLDER, (self._key, self._key)).fetchone()
                if holder and holder[1] == self.owner:
                    # our own old connection, whose end the server has not noticed yet
                    cursor.execute("SELECT pg_terminate_backend(%s)", (holder[0],))
            connection.commit()
            if mine:
                return
            if (holder and holder[1] != self.owner) or self._clock.now() > end:
                break
            self._clock.sleep(0.1)
        found = re.fullmatch(r"pulseledger (\d+) \w+ (.*)", holder[1] if holder else "")
        who = f"process {found[1]} on {found[2]}" if found else "another process"
        raise StudyError(
            f"the study {self._name} in this database is being driven by {who}; wait for it, or stop it and resume."
        )


_HOLDER = """
SELECT a.pid, a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND l.classid::bigint = ((%s::bigint >> 32) & 4294967295) AND l.objid::bigint = (%s::bigint & 4294967295)
"""


class Away(Exception):
    """The database did not answer; not SQLAlchemy's own, so that Optuna does not repeat anything on its side."""


def _note_absence(context: Any) -> None:
    import psycopg

    # also while it starts or stops, and after it ended the connection
    if context.is_disconnect or isinstance(context.original_exception, psycopg.OperationalError):
        raise Away(first_line(context.original_exception)) from context.original_exception


class Patient(BaseStorage):
    """Optuna's storage, whose calls are repeated while the database is away.

    A call whose answer was lost may have been carried out. As nobody else writes, what is there tells.
    """

    def __init__(
        self,
        storage: BaseStorage,
        say: Callable[[str], None],
        clock: Clock = REAL,
        away_seconds: float = AWAY_SECONDS,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        self._storage = storage
        self._say = say
        self._clock = clock
        self._seconds = away_seconds
        self._pauses = pauses

    def _call(self, name: str, *args: Any, **options: Any) -> Any:
        known = len(self._call("get_all_trials", args[0], deepcopy=False)) if name == "create_new_trial" else 0
        end, attempt, missed = self._clock.now() + self._seconds, 0, False
        while True:
            try:
                if missed:
                    if name == "create_new_trial":
                        there = self._storage.get_all_trials(args[0], deepcopy=False)
                        if len(there) > known:
                            return self._storage.get_trial_id_from_study_id_trial_number(args[0], known)
                    if name == "set_trial_state_values":
                        state = options["state"] if "state" in options else args[1]
                        if state != TrialState.WAITING and self._storage.get_trial(args[0]).state == state:
                            return True
                answer = getattr(self._storage, name)(*args, **options)
            except Away as error:
                missed = True
                if self._clock.now() >= end:
                    raise StudyError(
                        f"storage: the database has been away for {self._seconds:g} s ({error}); nothing is lost, resume "
                        "when it is back."
                    ) from None
                if attempt == 0:
                    self._say(f"the study's database is away ({error}), waiting up to {self._seconds:g} s")
                pause = self._pauses[min(attempt, len(self._pauses) - 1)]
                self._clock.sleep(min(pause, max(end - self._clock.now(), 0.0)))
                attempt += 1
            else:
                if missed:
                    self._say("the study's database is back")
                return answer


def _patient(name: str) -> Callable[..., Any]:
    def call(self: Patient, *args: Any, **options: Any) -> Any:
        return self._call(name, *args, **options)

    return call


# Every call of Optuna's public interface of a storage.
for _name, _member in vars(BaseStorage).items():
    if callable(_member) and not _name.startswith("_"):
        setattr(Patient, _name, _patient(_name))
abc.update_abstractmethods(Patient)  # type: ignore[type-abstract]
