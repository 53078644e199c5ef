"""Who and what produced a result: user, version, commit."""

import contextlib
import functools
import getpass
import hashlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from engine import __version__


@dataclass(frozen=True)
class Provenance:
    """What made a run; an empty text where it is not known.

    Attributes:
        commit, branch, url: of the repository that holds this package; another one around it does not count.
        changed: whether files there differ from the commit; None where there is no commit.
    """

    version: str
    user: str = ""
    commit: str = ""
    branch: str = ""
    url: str = ""
    changed: bool | None = None


_HERE = Path(__file__).resolve()


@functools.cache
def provenance(file: Path = _HERE) -> Provenance:
    """Of the code in `file`, a user's own, or of this package; asked once."""
    user = ""
    with contextlib.suppress(OSError, KeyError):  # a container may run as a number without a name
        user = getpass.getuser()

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=file.parent, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # the package may lie in a virtual environment inside somebody else's repository, which may even hold a copy of it
    top = git("rev-parse", "--show-toplevel")
    if file == _HERE and (top is None or Path(top).resolve() != _HERE.parents[1]):
        return Provenance(__version__, user)
    if git("ls-files", "--error-unmatch", file.name) is None or not (commit := git("rev-parse", "HEAD")):
        return Provenance(__version__, user)
    return Provenance(
        __version__,
        user,
        commit,
        git("rev-parse", "--abbrev-ref", "HEAD") or "",
        re.sub(r"//[^/]*@", "//", git("remote", "get-url", "origin") or ""),  # a password may stand there
        bool(git("status", "--porcelain")),
    )


@functools.cache
def code_digest(package: Path = _HERE.parent) -> bytes:
    """SHA-256 over the names and bytes of a package's own sources and contracts, this one's by default."""
    digest = hashlib.sha256(b"PulseLedger code 1")
    for path in sorted(p for kind in ("*.py", "*.json", "*.cpp", "*.txt") for p in package.rglob(kind)):
        content = path.read_bytes()
        digest.update(f"|{path.relative_to(package).as_posix()}|{len(content)}|".encode() + content)
    return digest.digest()
