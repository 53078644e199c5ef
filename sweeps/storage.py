"""Where a study's trials are kept: an SQLite file in its folder, or a PostgreSQL database for a cluster.

Only the driver writes there. On PostgreSQL all its work goes through one connection that also holds an advisory lock, so
a driver that lost its connection lost its lock, and cannot write again before it has it back.
"""

import abc
import contextlib
import hashlib
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
import sqlalchemy.exc
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState

from engine.errors import StudyError
from sweeps.space import StudyConfig

DATABASE = "optuna.db"  # in a study's folder
AWAY_SECONDS = 600.0  # that a database may be away before the driver stops
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


def storage_url(study: StudyConfig, folder: Path) -> str:
    """The address of the study's Optuna database; holds no password, which comes from PGPASSWORD or ~/.pgpass."""
    return study.storage or f"sqlite:///{(folder / DATABASE).resolve()}"


def open_storage(study: StudyConfig, folder: Path) -> RDBStorage:
    """The study's storage for a reader: nothing is locked and nothing is waited for."""
    return RDBStorage(storage_url(study, folder), {"connect_args": CONNECT} if study.storage else None)


@contextlib.contextmanager
def driver_storage(study: StudyConfig, folder: Path, say: Callable[[str], None]) -> Iterator[BaseStorage]:
    """The study's storage for its only driver, until the end of the `with` block.

    On PostgreSQL, calls that fail because the server is away are repeated for `AWAY_SECONDS`.

    Raises:
        StudyError: another driver has the study, in whatever folder; or the database cannot be used.
    """
    with one_sentence(study, folder):
        if study.storage is None:
            file = RDBStorage(storage_url(study, folder))
            try:
                yield file
            finally:
                file.remove_session()
                file.engine.dispose()
            return
        import psycopg

        # makes the tables, and checks their version, for which Optuna wants two connections
        open_storage(study, folder).engine.dispose()
        lock = _Lock(study.name)

        def connect() -> psycopg.Connection:
            # the driver's own words for the same address; SQLAlchemy has put its dialect into the scheme
            address = str(study.storage).replace("+psycopg", "", 1)
            made = psycopg.connect(address, application_name=lock.owner, **CONNECT)
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
            yield _Patient(optuna.storages.get_storage(opened), say)  # type: ignore[abstract]
        finally:
            opened.remove_session()
            opened.engine.dispose()


@contextlib.contextmanager
def one_sentence(study: StudyConfig, folder: Path) -> Iterator[None]:
    """Turns what the study's database raises into one sentence.

    Raises:
        StudyError: the database is damaged, full, not there, or refuses.
    """
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, _Away) as error:
        cause = error if isinstance(error, sqlalchemy.exc.SQLAlchemyError) else error.__cause__ or error.__context__
        reason = getattr(cause, "orig", None) or cause or error
        where = study.storage or folder / DATABASE
        raise StudyError(f"{where}: cannot be used ({_line(reason)}).") from None
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        raise StudyError("storage: PostgreSQL needs psycopg; install pulseledger[postgres].") from None


class _Lock:
    """PostgreSQL's advisory lock of a study, held by whichever connection took it last."""

    def __init__(self, name: str) -> None:
        # names the driver to others in pg_stat_activity, which keeps 63 bytes
        self.owner = f"pulseledger {os.getpid()} {secrets.token_hex(4)} {socket.gethostname()}"[:63]
        self._name = name
        self._key = int.from_bytes(hashlib.sha256(f"pulseledger/{name}".encode()).digest()[:8], "big", signed=True)

    def take(self, connection: Any) -> None:
        """Takes the lock for a new connection.

        Raises:
            StudyError: another driver has it.
        """
        end = time.monotonic() + 10
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
            if (holder and holder[1] != self.owner) or time.monotonic() > end:
                break
            time.sleep(0.1)
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


class _Away(Exception):
    """The database did not answer; not SQLAlchemy's own, so that Optuna does not repeat anything on its side."""


def _note_absence(context: Any) -> None:
    import psycopg

    # also while it starts or stops, and after it ended the connection
    if context.is_disconnect or isinstance(context.original_exception, psycopg.OperationalError):
        raise _Away(_line(context.original_exception)) from context.original_exception


class _Patient(BaseStorage):
    """Optuna's storage, whose calls are repeated while the database is away.

    A call whose answer was lost may have been carried out. As nobody else writes, what is there tells.
    """

    def __init__(self, storage: BaseStorage, say: Callable[[str], None]) -> None:
        self._storage = storage
        self._say = say

    def _call(self, name: str, *args: Any, **options: Any) -> Any:
        known = len(self._call("get_all_trials", args[0], deepcopy=False)) if name == "create_new_trial" else 0
        end, attempt, missed = time.monotonic() + AWAY_SECONDS, 0, False
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
            except _Away as error:
                missed = True
                if time.monotonic() > end:
                    raise StudyError(
                        f"storage: the database has been away for {AWAY_SECONDS:g} s ({error}); nothing is lost, resume "
                        "when it is back."
                    ) from None
                if attempt == 0:
                    self._say(f"the study's database is away ({error}), waiting up to {AWAY_SECONDS:g} s")
                time.sleep(min(PAUSES[min(attempt, len(PAUSES) - 1)], max(end - time.monotonic(), 0.0)))
                attempt += 1
            else:
                if missed:
                    self._say("the study's database is back")
                return answer


def _patient(name: str) -> Callable[..., Any]:
    def call(self: _Patient, *args: Any, **options: Any) -> Any:
        return self._call(name, *args, **options)

    return call


# Every call of Optuna's public interface of a storage.
for _name, _member in vars(BaseStorage).items():
    if callable(_member) and not _name.startswith("_"):
        setattr(_Patient, _name, _patient(_name))
abc.update_abstractmethods(_Patient)  # type: ignore[type-abstract]


def _line(reason: Any) -> str:
    """The first line of a message."""
    lines = str(reason).strip().splitlines()
    return lines[0][:200] if lines else type(reason).__name__
