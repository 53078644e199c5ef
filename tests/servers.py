"""A PostgreSQL from the system's package and an MLflow server, for tests that want the real ones."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Postgres:
    """A cluster of databases in a folder of its own, with a user `pulseledger` whose password is asked for."""

    PASSWORD = "not: a/s€cret? %41 @'#\"\\$&=+"

    def __init__(self, folder: Path) -> None:
        places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
        if not places:
            pytest.skip("PostgreSQL is not installed (apt-get install postgresql).")
        self._programs = places[-1]
        self.folder = folder
        self.port = free_port()
        # its programs refuse to run as root
        self._as = []
        if os.geteuid() == 0:
            self._as = ["runuser", "-u", "postgres", "--"]
            shutil.chown(folder, "postgres")
        password = folder / "password"
        password.write_text(self.PASSWORD)
        self._run(
            "initdb", "-D", folder / "data", "-U", "pulseledger", "--pwfile", password, "-A", "scram-sha-256", "-N"
        )
        with (folder / "data" / "postgresql.conf").open("a") as settings:
            settings.write(
                f"port = {self.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{folder}'\n"
            )
            settings.write("fsync = off\nshared_buffers = 16MB\nmax_connections = 40\n")

    def start(self) -> None:
        self._run("pg_ctl", "-D", self.folder / "data", "-l", self.folder / "log", "-w", "start")

    def stop(self, mode: str = "immediate") -> None:
        """Ends it; "immediate" is what a crash looks like."""
        self._run("pg_ctl", "-D", self.folder / "data", "-m", mode, "-w", "stop")

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """It keeps its port and its connections, and does nothing."""
        first = psutil.Process(int((self.folder / "data/postmaster.pid").read_text().split()[0]))
        stopped = [first, *first.children()]
        for process in stopped:
            process.suspend()
        try:
            yield
        finally:
            for process in stopped:
                process.resume()

    def create(self, database: str) -> None:
        self.sql("postgres", f"CREATE DATABASE {database}")

    def sql(self, database: str, text: str) -> list[tuple]:
        import psycopg

        address = f"postgresql://pulseledger@127.0.0.1:{self.port}/{database}"
        with psycopg.connect(address, password=self.PASSWORD, autocommit=True) as connection:
            cursor = connection.execute(text)
            return cursor.fetchall() if cursor.description else []

    def rows(self, database: str) -> list[str]:
        """All rows of all tables, as texts."""
        tables = self.sql(database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return [row[0] for (name,) in tables for row in self.sql(database, f"SELECT t::text FROM {name} t")]

    def url(self, database: str) -> str:
        """Without the password, which is in PGPASSWORD."""
        return f"postgresql+psycopg://pulseledger@127.0.0.1:{self.port}/{database}"

    def _run(self, program: str, *words: str | Path) -> None:
        command = [*self._as, str(self._programs / program), *map(str, words)]
        # the server inherits what it is given: a pipe would stay open with it
        with (self.folder / f"{program}.out").open("w+") as out:
            done = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=60)
            out.seek(0)
            assert done.returncode == 0, out.read()


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """A running server; `folder` must be one that other users may enter."""
    server = Postgres(folder)
    server.start()
    try:
        yield server
    finally:
        with contextlib.suppress(AssertionError):
            server.stop("fast")


class MlflowServer:
    """`mlflow server` over HTTP, in a process of its own."""

    def __init__(self, store: str, folder: Path) -> None:
        self._store, self._folder = store, folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        options = ["--backend-store-uri", self._store, "--artifacts-destination", str(self._folder / "artifacts")]
        command = [sys.executable, "-m", "mlflow", "server", *options, "--host", "127.0.0.1", "--port", str(self.port)]
        with (self._folder / "mlflow.log").open("a") as log:
            self._process = subprocess.Popen(
                [*command, "--workers", "1"], cwd=self._folder, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + 90
        while time.monotonic() < end:
            assert self._process.poll() is None, (self._folder / "mlflow.log").read_text()[-2000:]
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"{self.url}/health", timeout=2).close()
                return
            time.sleep(0.2)
        raise AssertionError("the MLflow server did not start")

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, 9)  # with its workers
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def mlflow_server(store: str, folder: Path) -> Iterator[MlflowServer]:
    server = MlflowServer(store, folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
