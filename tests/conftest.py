"""Shared by all tests: a cache of their own, the real records where they are, a small simulated federation."""

import functools
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from reference import ROOT, TINY
from xdist.scheduler import LoadFileScheduling

from engine.actors import start_ray, stop_ray
from engine.config import RunConfig
from engine.data.beats import Beats
from engine.data.config import CLASSES, DataConfig, SimulationConfig
from engine.pools.config import ExecutionConfig
from engine.settings import parse, set_key

# How long one example takes says more about the machine than about the code.
# The hundreds of examples of "thorough" are for `make test-long`.
slow = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("pulseledger", max_examples=40, **slow)
settings.register_profile("thorough", max_examples=300, **slow)
settings.load_profile("pulseledger")


MEMORY = Path("/dev/shm")
ROOM = 4 * 2**30  # bytes; a session writes a tenth of that


def pytest_configure() -> None:
    """Tests write into memory where there is room: a third of their time is a ledger's waiting for the disk.

    Bytecode is kept, whatever is set around: to compile the tree again takes each of the commands half a second.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """No processes for a single file, whose tests stay together anyway; else one for each CPU, and one more, as the tests of
    Ray and of whole commands wait for other processes most of the time."""
    alone = len(config.args) == 1 and Path(config.args[0].partition("::")[0]).is_file()
    wanted = os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS")  # what xdist itself goes by
    return 0 if alone else int(wanted) if wanted else len(os.sched_getaffinity(0)) + 1


class Together(LoadFileScheduling):
    """The tests of a file stay in one process, which makes what they share; so do all that share a Ray or a study."""

    def _split_scope(self, nodeid: str) -> str:
        return together(nodeid.partition("::")[0])


# what takes long to make -> the fixtures that give it, to several files
SHARED = {"ray": {"ray2", "done", "said"}, "studies": {"seen", "marked", "agreed"}, "ended": {"ended"}}


@functools.cache
def source(file: str) -> str:
    """The text of a test file."""
    return (ROOT / file).read_text(encoding="utf-8")


@functools.cache
def together(file: str) -> str:
    """What else must run in the process of a file: the name of something shared, or the file itself."""
    text = source(file)
    functions = re.findall(r"^def (\w+)\((.*?)\)(?: ->[^\n]*)?:$", text, re.MULTILINE | re.DOTALL)
    asked = {name for _, given in functions for name in re.findall(r"\w+", given)}
    asked -= {name for name, _ in functions}  # a fixture of its own
    for name, fixtures in SHARED.items():
        if file.startswith("tests/sweeps/") and asked & fixtures:
            return name
    return "ray" if "ray2" in text else file  # also where a parameter decides whether a test asks for it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that all processes end together: the one Ray, studies, what starts processes."""

    def order(item: pytest.Item) -> tuple[int, str]:
        file = item.nodeid.partition("::")[0]
        where = together(file)
        starts = any(word in source(file) for word in ("subprocess", "processes", "raylets"))
        return list(SHARED).index(where) if where in SHARED else len(SHARED) + (not starts), file

    items.sort(key=order)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    return Together(config, log)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Path]:
    """One cache folder for all processes of these tests; the user's is never touched."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "cache"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PULSELEDGER_CACHE", str(folder))
        patch.setenv("PULSELEDGER_TRACEBACK", "1")  # what nobody foresaw is to fail a test
        # the studies of the tests are over before the usual ten seconds are
        patch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
        yield folder


@pytest.fixture(scope="session")
def ray2() -> Iterator[None]:
    """One local Ray of two CPUs for all tests that want one."""
    start_ray(ExecutionConfig(address="local", cpus=2))
    yield
    stop_ray()


@pytest.fixture(scope="session")
def mitdb() -> Path:
    """The folder of the real MIT-BIH records; tests that ask for it are skipped where there is none."""
    place = Path(os.environ.get("PULSELEDGER_DATA") or ROOT / "../shared/data/mitdb").resolve()
    for folder in (place, place / "mitdb"):
        if (folder / "100.hea").is_file():
            return folder
    pytest.skip(f"The MIT-BIH records are not in {place}; set PULSELEDGER_DATA to a folder that holds them.")


@pytest.fixture(scope="session")
def simulated() -> DataConfig:
    """Six simulated patients of two minutes, cut into windows of 252 samples."""
    return DataConfig(window=(90, 162), simulated=SimulationConfig(patients=6, minutes=2.0))


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., RunConfig]:
    """Makes a run of seconds: `tiny_config(**{"cohort.hospitals": 2})` changes any dotted key."""

    def build(**changes: Any) -> RunConfig:
        values: dict[str, Any] = {}
        keys = {
            **TINY,
            "ledger.backend": "none",
            **changes,
        }
        for key, value in keys.items():
            set_key(values, key, value)
        return parse(RunConfig, values, "tiny_config")

    return build


@pytest.fixture(scope="session")
def beats_of() -> Callable[..., Beats]:
    """Makes beats in memory: `beats_of({"100": "NNV", "101": "NS"})` has two records with these classes.

    Beats lie `interval` samples apart at 360 Hz and their windows are `window` samples long; `patients` says whose
    a record is where that is not its own name; with `database`, records are that database's of the same names.
    """

    def build(
        records: Mapping[str, str],
        patients: Mapping[str, str] | None = None,
        interval: int = 300,
        window: int = 8,
        database: str = "",
        patients_source: str = "the test",
    ) -> Beats:
        number = np.repeat(np.arange(len(records)), [len(letters) for letters in records.values()])
        sample = np.array([interval * (i + 1) for letters in records.values() for i in range(len(letters))], np.int64)
        return Beats(
            folder=Path(),
            classes=CLASSES,
            x=np.zeros((len(number), 1, window), np.float32),
            rr=np.zeros((len(number), 0), np.float32),
            y=np.array([CLASSES.index(letter) for letters in records.values() for letter in letters], np.int8),
            record=number.astype(np.int32),
            sample=sample,
            peak=sample,
            records=tuple(
                {
                    "name": name,
                    "patient": (patients or {}).get(name, name),
                    "known": f"{database}/{name}" if database else "",
                    "other": False,
                    "copy_of": "",
                    "leads": ["MLII"],
                    "sampling_rate": 360.0,
                    "native_rate": 360.0,
                    "peaks": len(letters),
                    "annotated": {c: letters.count(c) for c in CLASSES},
                    **dict.fromkeys(("edge", "lost", "flat", "unclear", "doubled"), 0),
                    "dropped": {},
                    "others": {},
                }
                for name, letters in records.items()
            ),
            digest="0" * 64,
            rr_names=(),
            window=(window // 2, window - window // 2),
            patients_source=patients_source,
        )

    return build
