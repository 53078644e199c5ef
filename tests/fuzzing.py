"""Records that nobody should have: files of good ones, damaged at random but repeatably. For the tests of the reader.

python tests/fuzzing.py SECONDS [FIRST SEED]     damages records until the time is up; prints every seed that fails
"""

import random
import re
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import ecg
import numpy as np
import wfdb

from engine.data.beats import cut
from engine.data.collection import gather, one_rate
from engine.data.config import DataConfig
from engine.data.records import read_record
from engine.errors import PulseLedgerError

FORMS = 10
PATIENCE = 20  # seconds of CPU for one folder of a few kilobytes
EVIL = (
    b"0", b"-1", b"1", b"2", b"7", b"255", b"65535", b"99999999999999999999", b"-99999999999", b"1e400", b"nan", b"inf",
    b"0.0", b"1e-300", b"/", b"//", b"(", b")", b"360/0", b"0/360", b"x:0", b"16x0", b"16x9999999", b"16:99999", b"16+999999",
    b"212", b"516", b"8", b"", b"#", b"\xff\xfe", b"\xc2\xb5V", b"..", b"../../etc/passwd", b"~", b"a/3", b"a.hea", b"RECORDS",
)  # fmt: skip


def _write(folder: Path, kind: int) -> None:
    """A folder of one small record; `kind` counts through its forms."""
    forms: list[Callable[[], Any]] = [
        lambda: ecg.write(folder, "a", seconds=6, comments=["63 M", "patient 7"]),
        lambda: ecg.write(folder, "a", seconds=6, format="212"),
        lambda: ecg.write(folder, "a", seconds=6, format="80", gain=70.0),
        lambda: ecg.write(folder, "a", seconds=6, format="310"),
        lambda: ecg.write(folder, "a", seconds=6, format="516"),
        lambda: ecg.write(folder, "a", seconds=6, format="8"),
        lambda: ecg.write(folder, "a", seconds=6, format="24", unit="uV", rate=257),
        lambda: ecg.write(folder, "a", seconds=6, annotation_rate=250.0, lost=(2.0, 3.0)),
        lambda: _segments(folder),
        lambda: _frames(folder),
    ]
    assert len(forms) == FORMS
    forms[kind]()


def put(folder: Path, kind: int) -> None:
    """A folder of one good record; `kind` counts through its forms."""
    folder.mkdir(parents=True)
    for name, content in _good(kind).items():
        (folder / name).write_bytes(content)


@cache
def _good(kind: int) -> Mapping[str, bytes]:
    """The files of a good record, made once."""
    with tempfile.TemporaryDirectory() as place:
        _write(Path(place) / "r", kind)
        return {path.name: path.read_bytes() for path in (Path(place) / "r").iterdir()}


def damaged(folder: Path, draw: random.Random) -> None:
    """Changes some files of a folder: bits, lengths, words and lines of headers, names, whole files."""
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        files = sorted(path for path in folder.iterdir() if path.is_file())
        if not files:
            return
        headers = [path for path in files if path.suffix == ".hea"]
        path = draw.choice(headers) if headers and draw.random() < 0.6 else draw.choice(files)
        content = path.read_bytes()
        if path.suffix == ".hea" and draw.random() < 0.8:
            path.write_bytes(_reworded(content, draw))
        else:
            draw.choice((_flipped, _cut_short, _repeated, _overwritten, _lengthened))(path, content, draw)


def settings(folder: Path, draw: random.Random) -> DataConfig:
    """Settings that read more or less of what is in the files."""
    return DataConfig(
        source="folder",
        folder=str(folder),
        window=draw.choice(((60, 90), ("0.1 s", "0.2 s"), (1, 1))),
        normalise=draw.choice(("record", "train", "beat", "none")),
        rate=draw.choice((None, None, 250.0, 333.3)),
        filter=draw.choice(({}, {}, {"band": [0.5, 40]}, {"notch": 50})),
        rr_context=draw.choice((10, "5 s")),
        **draw.choice(({}, {"lead": (0,)}, {"lead": (1, "MLII")}, {"leads": (("MLII",), ("V1", 1))}, {"leads": ((1,), (0,))})),
    )  # fmt: skip


def read(data: DataConfig) -> str:
    """Reads all records of a folder and cuts their beats; the sentence with which they are refused, or "".

    Raises:
        AssertionError: what was read cannot be, or the refusal is no sentence.
    """
    try:
        collection = gather(data)
        rate = one_rate([collection])
        made = [cut(read_record(entry, data), data) for entry in collection.entries]
        data.window_at(rate)
    except PulseLedgerError as error:
        said = str(error)
        assert said.endswith((".", "?")), said
        assert "\n" not in said, said
        return said
    except ValueError as error:
        if not str(error).startswith("data.window is "):  # `load_beats` asks before it cuts
            raise
        return str(error)
    for one in made:
        assert np.isfinite(one.x).all(), "a window is not finite"
        assert np.isfinite(one.rr).all(), "a time is not finite"
        assert len(one.x) == len(one.rr) == len(one.y) == len(one.sample)
        assert (np.diff(one.sample) > 0).all(), "two beats at one sample"
    return ""


def attempt(seed: int, folder: Path) -> str:
    """Damages a record by a seed and reads it; see `read`."""
    draw = random.Random(seed)
    put(folder, seed % FORMS)
    damaged(folder, draw)
    data = settings(folder, draw)

    def late(number: int, frame: Any) -> None:
        raise AssertionError(f"not read within {PATIENCE} s")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(data)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def failures(seconds: float, first: int = 0) -> Iterator[tuple[int, str]]:
    """Seeds whose record was neither read nor refused as it should be, with what happened, until the time is up."""
    end = time.monotonic() + seconds
    seed = first
    while time.monotonic() < end:
        with tempfile.TemporaryDirectory() as place:
            try:
                attempt(seed, Path(place) / "r")
            except Exception:
                yield seed, traceback.format_exc()
        seed += 1
    print(f"seeds {first} to {seed - 1}", flush=True)


def _segments(folder: Path) -> None:
    for part in ("a_1", "a_2"):
        ecg.write(folder, part, seconds=4)
    at = wfdb.rdann(str(folder / "a_1"), "atr").sample
    wfdb.wrann("a", "atr", np.concatenate([at, at + 1440 + 400]), ["N"] * (2 * len(at)), write_dir=str(folder))
    for part in ("a_1", "a_2"):
        (folder / f"{part}.atr").unlink()
    (folder / "a.hea").write_text("a/3 2 360 3280\na_1 1440\n~ 400\na_2 1440\n")


def _frames(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    fast, slow = np.arange(4 * 1440) % 1000, np.arange(1440) % 500
    wfdb.wrsamp(
        "a", 360, ["mV", "mV"], ["MLII", "V1"], fmt=["16", "16"], adc_gain=[1000.0, 1000.0], baseline=[0, 0],
        samps_per_frame=[4, 1], e_d_signal=[fast, slow], write_dir=str(folder),
    )  # fmt: skip
    wfdb.wrann("a", "atr", np.array([400, 700, 1000]), ["N", "V", "N"], write_dir=str(folder))


def _reworded(content: bytes, draw: random.Random) -> bytes:
    lines = content.split(b"\n")
    at = draw.randrange(len(lines))
    words = re.split(rb"( )", lines[at])
    match draw.randrange(7):
        case 0:
            words[draw.randrange(len(words))] = draw.choice(EVIL)
        case 1:  # a part of a word, such as the gain's baseline or the format's frames
            words[draw.randrange(len(words))] += draw.choice(EVIL)
        case 2:
            del words[draw.randrange(len(words)) :]
        case 3:
            lines.insert(at, lines[draw.randrange(len(lines))])
        case 4:
            del lines[at]
            return b"\n".join(lines)
        case 5:
            number = re.sub(rb"\d+", lambda found: draw.choice((found[0], draw.choice(EVIL))), lines[at])
            words = [number]
        case _:
            words.insert(draw.randrange(len(words) + 1), draw.choice(EVIL) + b" ")
    lines[min(at, len(lines) - 1)] = b"".join(words)
    return b"\n".join(lines)


def _flipped(path: Path, content: bytes, draw: random.Random) -> None:
    changed = bytearray(content or b"\0")
    for _ in range(draw.choice((1, 4, 64))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(changed))


def _cut_short(path: Path, content: bytes, draw: random.Random) -> None:
    path.write_bytes(content[: draw.randrange(len(content) + 1)])


def _repeated(path: Path, content: bytes, draw: random.Random) -> None:
    start = draw.randrange(len(content) + 1)
    path.write_bytes(content[:start] + content[start : start + 64] * draw.choice((2, 50)) + content[start:])


def _overwritten(path: Path, content: bytes, draw: random.Random) -> None:
    start = draw.randrange(len(content) + 1)
    path.write_bytes(content[:start] + draw.randbytes(draw.choice((2, 16, 200))) + content[start + 16 :])


def _lengthened(path: Path, content: bytes, draw: random.Random) -> None:
    match draw.randrange(4):
        case 0:
            path.write_bytes(content + draw.randbytes(100))
        case 1:
            path.unlink()
        case 2:
            path.rename(path.with_name(draw.choice(("A.hea", "a.dat", "a.atr", ".a.hea", "a b.hea", "RECORDS"))))
        case _:
            path.write_bytes(b"")


if __name__ == "__main__":
    found = 0
    for seed, text in failures(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0):
        found += 1
        print(f"seed {seed}\n{text}", flush=True)
    sys.exit(bool(found))
