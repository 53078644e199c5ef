"""WFDB headers: what a record says of itself, checked before anything of it is trusted.

`wfdb` reads them; what it passes over is asked here: as many signals as promised, a known format, files as long as the
header says, units outside of ASCII. What a header may leave out (names of leads, number of samples) is not missed.
"""

import contextlib
import functools
import hashlib
import json
import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from engine.errors import DataError
from engine.files import own_cache, write_text

# bytes of one sample; FLAC's formats are compressed
SAMPLE_BYTES = {
    "8": 1.0, "16": 2.0, "24": 3.0, "32": 4.0, "61": 2.0, "80": 1.0, "160": 2.0, "212": 1.5, "310": 4 / 3, "311": 4 / 3,
}  # fmt: skip
FLAC = ("508", "516", "524")
LARGEST_HEADER = 1 << 20  # bytes; something longer is no header
LONGEST = 1 << 31  # samples of one signal, three weeks at 1000 Hz
# what is asked of a header that `wfdb` has read
READ = (
    "fs", "n_sig", "sig_len", "sig_name", "file_name", "fmt", "samps_per_frame", "skew", "byte_offset", "units", "comments",
    "seg_name", "seg_len",
)  # fmt: skip
CHAINED = "::"  # what wfdb's file layer would take for a chain of URLs


@dataclass(frozen=True)
class Signal:
    """One signal line of a header.

    Attributes:
        lead: its description; "" where the header gives none.
        unit: of the physical values, as written.
        name: of the file with its samples, as written.
        file: where that is.
        per_frame: samples in each frame; times and rate count frames.
        skew: frames by which it lags.
    """

    lead: str
    unit: str
    name: str
    file: Path
    format: str
    per_frame: int
    skew: int


@dataclass(frozen=True)
class Part:
    """A stretch of a record that has a header of its own: all of an ordinary record, a segment of another.

    Attributes:
        header: its file; None for a gap between segments.
        length: frames.
        signals: none in a gap.
    """

    header: Path | None
    length: int
    signals: tuple[Signal, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read, each once."""
        return () if self.header is None else (self.header, *dict.fromkeys(signal.file for signal in self.signals))


@dataclass(frozen=True)
class Header:
    """What a record's header, and those of its segments, say.

    Attributes:
        path: of the header file.
        rate: frames a second.
        leads: names of the leads, in order; "" where there is no name.
        comments: lines after a #, without it.
        parts: one, or the segments in order of time.
        layout: header of a multi-segment record that only lists its leads; read, too.
    """

    path: Path
    rate: float
    leads: tuple[str, ...]
    comments: tuple[str, ...]
    parts: tuple[Part, ...]
    layout: tuple[Path, ...] = ()

    @property
    def length(self) -> int:
        """Frames of the whole record."""
        return sum(part.length for part in self.parts)

    @property
    def signal_files(self) -> frozenset[Path]:
        """The files that hold samples."""
        return frozenset(signal.file for part in self.parts for signal in part.signals)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file but the annotations that is read, each once."""
        return tuple(dict.fromkeys([self.path, *self.layout, *(file for part in self.parts for file in part.files)]))


def find(folder: Path, name: str) -> Path | None:
    """The file of this name, or the only one whose name differs in upper and lower case."""
    if (folder / name).is_file():
        return folder / name
    try:
        alike = [path for path in folder.iterdir() if path.name.lower() == name.lower() and path.is_file()]
    except OSError:
        return None
    return alike[0] if len(alike) == 1 else None


def read_header(path: Path) -> Header:
    """Reads the header of a record, and of its segments if it has several.

    Raises:
        DataError: it is no WFDB header, contradicts itself, or names files that are not there.
    """
    header = _parsed(path)
    comments = tuple(header.comments or ())
    if not hasattr(header, "seg_name"):
        part = _part(path, header)
        return Header(path, _rate(path, header), tuple(s.lead for s in part.signals), comments, (part,))
    parts: list[Part] = []
    layout: tuple[Path, ...] = ()
    leads: list[str] = []
    rate = _rate(path, header)
    for name, length in zip(header.seg_name, header.seg_len, strict=True):
        if name == "~":
            parts.append(Part(None, int(length), ()))
            continue
        file = _beside(path, f"{name}.hea")
        segment = _parsed(file)
        if hasattr(segment, "seg_name") or _rate(file, segment) != rate:
            raise _unreadable(path, f"segment {name} has segments of its own, or another sampling rate")
        if length == 0:  # the layout of a record whose leads change lists all of them
            layout, leads = (file,), [str(lead or "") for lead in getattr(segment, "sig_name", None) or ()]
            continue
        part = _part(file, segment)
        if part.length < length:
            raise _unreadable(path, f"promises {length} samples of segment {name}, which has {part.length}")
        if not leads:
            leads = [signal.lead for signal in part.signals]
        elif not layout:
            leads += [signal.lead for signal in part.signals if signal.lead and signal.lead not in leads]
        parts.append(Part(file, int(length), part.signals))
    if not any(part.signals for part in parts):
        raise _unreadable(path, "no signal")
    if header.sig_len and header.sig_len != sum(part.length for part in parts):
        raise _unreadable(path, f"promises {header.sig_len} samples, its segments have another number")
    return Header(path, rate, tuple(leads), comments, tuple(parts), layout)


def segments_named(text: str) -> list[str]:
    """Names of the segments in the text of a header; none for an ordinary record."""
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines or not re.search(r"/\d+$", lines[0][0]):
        return []
    return [line[0] for line in lines[1:]]


@contextlib.contextmanager
def at_hand(files: Sequence[tuple[str, Path]], header: Part | None = None) -> Iterator[Path]:
    """A folder in which `wfdb` finds files under the names that it expects.

    That is where they are, but for names that differ in upper and lower case, a path with two colons, and headers
    without a number of samples: then links in a folder for the moment.

    Args:
        files: names as `wfdb` asks for them, and where each is.
        header: the part whose header is to name its number of samples.
    """
    folder = files[0][1].parent
    plain = all(folder / name == path for name, path in files) and CHAINED not in str(folder.absolute())
    text = _with_length(header) if header is not None else None
    if plain and text is None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as name:
        for wanted, path in files:
            if header is not None and path == header.header and text is not None:
                (Path(name) / wanted).write_bytes(text)
            else:
                (Path(name) / wanted).symlink_to(path.absolute())
        yield Path(name)


def _with_length(part: Part) -> bytes | None:
    """The text of a part's header with its number of samples; None where it names it already."""
    assert part.header is not None
    lines = part.header.read_bytes().splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if line.strip() and not line.lstrip().startswith(b"#"))
    words = lines[first].split()
    if len(words) > 3 and words[3] != b"0":
        return None
    words = [*words[:2], words[2] if len(words) > 2 else b"250", str(part.length).encode(), *words[4:]]
    lines[first] = b" ".join(words) + b"\n"
    return b"".join(lines)


def _parsed(path: Path) -> Any:
    """A header as `wfdb` reads it; nobody may change it."""
    try:
        if path.stat().st_size > LARGEST_HEADER:
            raise ValueError("longer than a header can be")
        text = path.read_bytes()
        header = _read(path, text)
        _require_rate(text, header)
        return header
    except DataError:  # of the cache
        raise
    except Exception as error:
        raise _unreadable(path, reason(error)) from None


@functools.lru_cache(maxsize=1024)
def _read(path: Path, text: bytes) -> Any:
    """The header in `path`, which holds `text`: one trial after another of a process reads the same records.

    What `wfdb` made of it is kept in the cache: its import, with pandas, takes half a second, for which a process whose
    beats are cut has no other use.
    """
    identity = hashlib.sha256(f"{version('wfdb')} {path.stem}\n".encode() + text).hexdigest()[:24]
    kept = own_cache("headers") / f"{identity}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return SimpleNamespace(**json.loads(kept.read_bytes()))
    import wfdb

    with at_hand([(f"{path.stem}.hea", path)]) as folder:
        header = wfdb.rdheader(str(folder / path.stem))
    found = {name: getattr(header, name) for name in READ if hasattr(header, name)}
    write_text(kept, json.dumps(found))
    return SimpleNamespace(**found)


def _require_rate(text: bytes, header: Any) -> None:
    """The sampling rate is what is written: `wfdb` would take 3.6e2 for 3.6, 257,3 for 257 and -360 for none.

    Raises:
        ValueError: it is not.
    """
    words = next(line for line in text.splitlines() if line.strip() and not line.lstrip().startswith(b"#")).split()
    written = words[2].split(b"/")[0].decode("latin-1") if len(words) > 2 else ""
    if written and (not re.fullmatch(r"\d+\.?\d*|\.\d+", written) or float(written) != header.fs):
        raise ValueError(f"its sampling rate is written {written[:20]}")


def _rate(path: Path, header: Any) -> float:
    rate = float(header.fs or 0)
    if not 0 < rate < 1e6:
        raise _unreadable(path, "no sampling rate")
    return rate


def _part(path: Path, header: Any) -> Part:
    """The signals of one header; its number of samples is taken from the signal files where it gives none."""
    names, count = list(getattr(header, "file_name", None) or ()), int(header.n_sig or 0)
    if not names or not count:
        raise _unreadable(path, "no signal")
    if len(names) != count:
        raise _unreadable(path, f"promises {count} signals and describes {len(names)}")
    last: dict[str, int] = {}
    for position, name in enumerate(names):
        if last.setdefault(name, position) not in (position, position - 1):
            raise _unreadable(path, f"the signals of {name} do not stand together")
        last[name] = position
    units = _units(path, header)
    signals = []
    for i, name in enumerate(names):
        kind = str(header.fmt[i])
        if kind not in SAMPLE_BYTES and kind not in FLAC:
            raise _unreadable(path, f"signal {i} has format {kind}, which holds no samples or is not known")
        signals.append(
            Signal(
                lead=str(header.sig_name[i] or "").strip(),
                unit=units[i],
                name=name,
                file=_beside(path, name),
                format=kind,
                per_frame=int(header.samps_per_frame[i] or 1),
                skew=int(header.skew[i] or 0),
            )
        )
    length = int(header.sig_len or 0) or _inferred(path, header, signals)
    if not 0 < length <= LONGEST:
        raise _unreadable(path, f"promises {length} samples")
    _require_samples(header, signals, length)
    return Part(path, length, tuple(signals))


def _units(path: Path, header: Any) -> list[str]:
    """Units of the signals. `wfdb` reads ASCII only, so that µV would become V."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")][1:]
    if len(lines) != len(header.units):
        raise _unreadable(path, f"promises {len(header.units)} signals and describes {len(lines)}")
    written = [line[2].partition("/")[2] if len(line) > 2 else "" for line in lines]
    return [own if not own.isascii() else str(read or "mV") for own, read in zip(written, header.units, strict=True)]


def _inferred(path: Path, header: Any, signals: list[Signal]) -> int:
    first = signals[0]
    together = sum(s.per_frame for s in signals if s.file == first.file)
    if first.format in FLAC:
        import soundfile

        try:
            return int(soundfile.info(str(first.file)).frames // first.per_frame)
        except Exception as error:
            raise DataError(f"{first.file}: is not a readable FLAC file ({reason(error)}).") from None
    size = first.file.stat().st_size - int(header.byte_offset[0] or 0)
    return int(size / (SAMPLE_BYTES[first.format] * together))


def _require_samples(header: Any, signals: list[Signal], length: int) -> None:
    """Each file is as long as the header says; `wfdb` would allocate what is promised first."""
    for i, signal in enumerate(signals):
        if signal.format in FLAC or (i and signals[i - 1].file == signal.file):
            continue
        together = sum(s.per_frame for s in signals if s.file == signal.file)
        needed = math.ceil(length * together * SAMPLE_BYTES[signal.format]) + int(header.byte_offset[i] or 0)
        if (there := signal.file.stat().st_size) < needed:
            raise DataError(
                f"{signal.file}: does not hold the {length} samples its header promises ({there} of {needed} bytes)."
            )


def _beside(path: Path, name: str) -> Path:
    found = find(path.parent, name)
    if found is None:
        raise DataError(f"{path.parent / name}: is missing; {path.name} names it.")
    return found


def _unreadable(path: Path, why: str) -> DataError:
    return DataError(f"{path}: is not a readable WFDB header ({why}).")


def reason(error: Exception) -> str:
    """The first line of an error, cut short, for a sentence of ours."""
    return (str(error).splitlines() or [""])[0][:120] or type(error).__name__
