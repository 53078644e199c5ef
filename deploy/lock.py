"""Writes deploy/requirements.lock: what is installed here, each package at its version and with the hash of the file that pip would take.

    python deploy/lock.py                       # asks the package index for the hashes; downloads what has none there
    pip install --require-hashes --no-deps -r deploy/requirements.lock      # on the same platform: Linux, x86-64, Python 3.11

torch is the build without CUDA, which lies in PyTorch's own index (`--extra-index-url`), as in the image.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from sweeps.supply import components

LOCK = Path(__file__).with_name("requirements.lock")
PROJECT = Path(__file__).parents[1] / "pyproject.toml"
HEAD = """# Made by deploy/lock.py for Linux on x86-64 with Python 3.11; torch without CUDA, from PyTorch's own index.
# pip install --require-hashes --no-deps -r deploy/requirements.lock
"""


def main() -> None:
    """Writes the file."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    extras = project["optional-dependencies"]
    wished = [*project["dependencies"], *extras["cluster"], *extras["postgres"]]  # what the image holds
    there = {one for text in wished if not text.startswith(project["name"]) for one in components(text)}
    pins = sorted(f"{one.name}=={one.version}" for one in there)
    with tempfile.TemporaryDirectory() as folder:
        wanted, report = Path(folder) / "pins.txt", Path(folder) / "report.json"
        wanted.write_text("\n".join(pins) + "\n")
        flags = ("--dry-run", "--ignore-installed", "--no-deps", "--quiet", "--report", str(report), "-r", str(wanted))
        subprocess.run([sys.executable, "-m", "pip", "install", *flags], check=True)
        LOCK.write_text(locked(json.loads(report.read_text())))


def locked(report: dict) -> str:
    """The lock file out of pip's report of an installation."""
    rows = []
    for one in report["install"]:
        name, version = one["metadata"]["name"], one["metadata"]["version"]
        digest = one["download_info"]["archive_info"]["hashes"]["sha256"]
        rows.append(f"{name.lower().replace('_', '-')}=={version} --hash=sha256:{digest}")
    return HEAD + "\n".join(sorted(rows)) + "\n"


if __name__ == "__main__":
    main()
