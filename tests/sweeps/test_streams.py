"""Output that is closed or lacks a letter, signals at any moment, and a package of our name where a study is started."""

import _imp
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from processes import driver, until
from reference import ROOT, TINY, as_flags, command

from engine.actors import _hides_ours, _short_folder
from engine.errors import ResourceError
from sweeps.signals import ONCE_MORE, Ending, listening

QUICK = {**TINY, "execution.pool": "threads", "tracking.backend": "none", "ledger.backend": "none"}
FLAGS = as_flags(**QUICK)
LONG = as_flags(**QUICK | {"federation.rounds": 100000})


def shell(words: str, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command line in a shell, which can close what it wants."""
    line = f'exec "$@" {words}'
    command = ["bash", "-c", line, "bash", sys.executable, "-m", "sweeps", *more]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}, timeout=120
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_work_is_done_whatever_is_closed(closed: str, tmp_path: Path):
    done = shell(closed, "run", "sweeps/run.yaml", "--out", str(tmp_path / "run"), *FLAGS)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "result.json").exists()
    assert "Traceback" not in done.stdout + done.stderr


def test_letters_that_cannot_be_shown_are_replaced(tmp_path: Path):
    words = ("run", "sweeps/run.yaml", "--out", str(tmp_path / "run"), "--name", "Zürich", *FLAGS)
    done = shell("", *words, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "Z\\xfcrich" in done.stdout
    assert shell("", "compare", str(tmp_path / "run"), PYTHONIOENCODING="ascii").returncode == 0


def test_a_few_words_that_cannot_be_written_are_told():
    """They wait in a buffer until the command has ended."""
    done = shell("> /dev/full", "keys", "federation.rounds")
    assert (done.returncode, done.stderr) == (2, "pulseledger: No space left on device.\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_a_run_at_a_checkpoint(number: signal.Signals, tmp_path: Path):
    folder = tmp_path / "run"
    with driver(folder, "run", "sweeps/run.yaml", "--out", str(folder), *LONG) as process:
        until((folder / "checkpoint.safetensors").exists, process)
        process.send_signal(number)
        assert process.wait(60) == 130
    said = (tmp_path / "run.log").read_text()
    assert f"pulseledger: stopped at a checkpoint; `pulseledger resume {folder}` goes on.\n" in said
    assert "Traceback" not in said
    assert not (folder / "result.json").exists()


def test_a_signal_ends_what_has_no_checkpoint_in_a_sentence(tmp_path: Path):
    """While a study waits in its first look at the configuration, long before any handler of its own."""
    code = (
        "import os, signal, sys\n"
        "from sweeps.verbs import data\n"
        "data.keys.__globals__['print'] = lambda *a: os.kill(os.getpid(), signal.SIGTERM)\n"
        "from sweeps.__main__ import main\n"
        "sys.exit(main(['keys']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 130
    assert done.stderr == "pulseledger: stopped; `pulseledger resume DIR` goes on from the last round.\n"


def test_a_run_is_left_at_once_before_a_round_is_over_and_at_a_checkpoint_after_it(tmp_path: Path):
    notes: list[str] = []
    for begun, left in ((False, "nothing was begun"), (True, f"`pulseledger resume {tmp_path}` goes on")):
        if begun:
            (tmp_path / "config.yaml").touch()
        ending = Ending(tmp_path, notes.append)
        with pytest.raises(KeyboardInterrupt, match=f"left at once; {left}"), listening(ending.heard):
            os.kill(os.getpid(), signal.SIGTERM)
        assert not ending.wanted
    ending.round_finished(None)
    with listening(ending.heard):
        os.kill(os.getpid(), signal.SIGTERM)
    assert ending.wanted
    until(lambda: notes == [ONCE_MORE])


def test_a_signal_in_the_middle_of_an_import_leaves_no_lock_on_imports():
    """As Ray is imported in a thread: raised where the lock was just taken, it would stay taken, and that thread wait for ever."""
    taken = threading.Event()
    heard: list[bool] = []

    def other() -> None:
        _imp.acquire_lock()
        taken.set()
        until(lambda: "frozen importlib" in sys._current_frames()[threading.main_thread().ident].f_code.co_filename)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)  # the main thread waits for the lock, and hears of the signal as it gets it
        _imp.release_lock()

    def raising(first: bool) -> None:
        heard.append(first)
        raise KeyboardInterrupt

    def importing() -> None:
        with listening(raising):
            taken.wait()
            with pytest.raises(ModuleNotFoundError):
                importlib.import_module("there_is_no_such_module")
            until(lambda: heard)

    thread = threading.Thread(target=other)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        importing()
    thread.join(10)
    assert heard == [True]
    assert not _imp.lock_held()


@pytest.mark.parametrize("late", ["", "raise KeyboardInterrupt"])
def test_a_signal_after_the_last_word_says_nothing(late: str):
    """A second Ctrl-C while a process is being taken down, which waits for its threads; or as the sentence is being said."""
    code = (
        "import os, signal, threading, time\n"
        "import sweeps.__main__ as cli\n"
        "def again():\n"
        "    while True:\n"  # the first may come before the last word, on a busy machine
        "        time.sleep(0.2)\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "def main():\n"
        f"    {late}\n"
        "    threading.Thread(target=again).start()\n"
        "    return cli.INTERRUPTED\n"
        "cli.main = main\n"
        "cli.program()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_ignored_signal_stays_ignored():
    """As under nohup."""
    heard: list[bool] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with listening(heard.append):
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert heard == [True, False]


def test_a_folder_with_a_package_of_our_name_is_not_searched_by_workers(tmp_path: Path):
    assert not _hides_ours(tmp_path)
    assert not _hides_ours(ROOT)
    (tmp_path / "engine").mkdir()
    assert _hides_ours(tmp_path)
    (tmp_path / "engine").rmdir()
    (tmp_path / "sweeps.py").touch()
    assert _hides_ours(tmp_path)


def test_a_package_of_our_name_beside_a_script_is_named(tmp_path: Path):
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "__init__.py").touch()
    (tmp_path / "script.py").write_text("import pulseledger\n")
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (
        f"ImportError: pulseledger: a package 'engine' in {tmp_path / 'engine'} hides PulseLedger's own" in done.stderr
    )


def test_ray_s_folder_is_short_or_it_is_said_how(monkeypatch):
    """The name of a socket has 107 bytes."""
    long = f"/tmp/{'x' * 60}"
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    assert _short_folder() == {}
    monkeypatch.setattr("tempfile.tempdir", long)
    assert _short_folder() == {"_temp_dir": "/tmp/ray"}
    monkeypatch.setenv("RAY_TMPDIR", long)
    with pytest.raises(ResourceError, match=f"{long}: is too long for the names of Ray's sockets; set RAY_TMPDIR"):
        _short_folder()


def test_ray_without_docstrings_is_said_at_once(tmp_path: Path):
    flags = as_flags(**TINY | {"execution.pool": "ray", "tracking.backend": "none"})
    done = command("run", "sweeps/run.yaml", "--out", tmp_path / "run", *flags, PYTHONOPTIMIZE="2")
    assert done.returncode == 2
    assert "Ray does not work without docstrings: take away PYTHONOPTIMIZE=2" in done.stderr
