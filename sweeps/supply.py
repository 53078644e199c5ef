"""What a run is made of besides our own code: every installed package it needs, as a bill of materials, with its licence.

CycloneDX 1.6 in its plain JSON form (https://cyclonedx.org/docs/1.6/json/), out of what is installed, not of what was asked for. Two calls
give the same document: it holds no time and no random number.
"""

import importlib.metadata as installed
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from engine.encoding import json_hash
from engine.errors import DataError

NAME, OURS = "pulseledger", "Apache-2.0"
# Licences that a work under Apache-2.0 may be given away together with: permissive ones, and those whose terms end at the file or at
# the library. Not among them: GPL and AGPL, which reach what is combined with them, and what nobody knows.
ALLOWED = frozenset(
    "0BSD Apache-2.0 BSD-2-Clause BSD-3-Clause BSD-3-Clause-Open-MPI CC0-1.0 CNRI-Python HPND ISC LGPL-3.0-only LGPL-3.0-or-later MIT MIT-0 "
    "MIT-CMU MPL-2.0 PSF-2.0 Python-2.0 Public-Domain Unlicense Zlib BSL-1.0 LLVM-exception GCC-exception-3.1".split()
)
_CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": "CC0-1.0",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Public Domain": "Public-Domain",
    "Python Software Foundation License": "PSF-2.0",
}
_TEXTS = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache 2.0": "Apache-2.0",
    "apache-2.0": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "bsd 3-clause license": "BSD-3-Clause",
    "mit": "MIT",
    "mit license": "MIT",
}
_IN_FILE = (  # how licence files begin -> the licence
    (re.compile(r"Permission is hereby granted, free of charge, to any person obtaining a copy"), "MIT"),
    (re.compile(r"Apache License\s+Version 2\.0"), "Apache-2.0"),
    (re.compile(r"Redistribution and use in source and binary forms.*Neither the name", re.DOTALL), "BSD-3-Clause"),
)


@dataclass(frozen=True)
class Component:
    """An installed package.

    Attributes:
        licence: an SPDX expression; "" where nothing says it.
        needs: names of other components.
    """

    name: str
    version: str
    licence: str
    needs: tuple[str, ...]

    @property
    def reference(self) -> str:
        """Its package URL."""
        return f"pkg:pypi/{self.name}@{self.version}"


Find = Callable[[str], installed.Distribution]


def components(root: str = NAME, find: Find = installed.distribution) -> list[Component]:
    """What a package needs, and what that needs, by name; the package itself is the first.

    Raises:
        DataError: something is not installed that is needed here.
    """
    found: dict[str, Component] = {}
    asked: dict[str, set[str]] = {}
    ahead = [_requirement(root)]
    while ahead:
        wanted = ahead.pop()
        name = str(canonicalize_name(wanted.name))
        if name in asked and wanted.extras <= asked[name]:
            continue
        asked.setdefault(name, set()).update(wanted.extras)
        try:
            there = find(name)
        except installed.PackageNotFoundError:
            raise DataError(f"{name}: is needed by {root}, but is not installed.") from None
        if lacking := {*map(canonicalize_name, wanted.extras)} - {
            canonicalize_name(extra) for extra in there.metadata.get_all("Provides-Extra", [])
        }:
            raise DataError(f"{name}: has no extra {min(lacking)}.")
        needs = [one for one in map(_requirement, there.requires or ()) if _counts(one, asked[name])]
        names = sorted({str(canonicalize_name(one.name)) for one in needs} - {name})
        found[name] = Component(name, there.version, licence(there), tuple(names))
        ahead += needs
    first = str(canonicalize_name(_requirement(root).name))
    return [found.pop(first), *(found[name] for name in sorted(found))]


def licence(package: installed.Distribution) -> str:
    """The licence of a package, an SPDX expression, by its metadata, else by its licence file; "" where neither says it."""
    said = package.metadata
    if "License-Expression" in said:
        return said["License-Expression"]
    classes = [text.rpartition(" :: ")[2] for text in said.get_all("Classifier", []) if text.startswith("License")]
    known = [_CLASSIFIERS[text] for text in classes if text in _CLASSIFIERS]
    if known:
        return " AND ".join(dict.fromkeys(known))
    text = said["License"].strip() if "License" in said else ""
    if text.lower() in _TEXTS:
        return _TEXTS[text.lower()]
    if text and len(text) < 80 and not set(_ids(text)) - ALLOWED:
        return text
    for file in package.files or ():
        if file.name.upper().startswith(("LICENSE", "LICENCE", "COPYING")):
            path = Path(str(file.locate()))
            content = path.read_text(errors="replace") if path.is_file() else ""
            for pattern, meant in _IN_FILE:
                if pattern.search(content):
                    return meant
    return ""


def refused(parts: Sequence[Component]) -> dict[str, str]:
    """Component -> why it may not be given away with ours; {} where all may."""
    found = {}
    for one in parts:
        if not one.licence:
            found[one.name] = "nothing says under which licence it is"
        elif not _allowed(one.licence):
            found[one.name] = f"its licence {one.licence} is not one that goes with {OURS}"
    return found


def bom(parts: Sequence[Component]) -> dict[str, Any]:
    """The bill of materials of a package, the first of `parts`, as a CycloneDX document."""
    root, *others = parts
    references = {one.name: one.reference for one in parts}
    content = {
        "metadata": {"component": {"type": "application", **_described(root)}},
        "components": [{"type": "library", **_described(one)} for one in others],
        "dependencies": [
            {"ref": one.reference, "dependsOn": [references[name] for name in one.needs]} for one in parts
        ],
    }
    number = uuid.UUID(bytes=json_hash(content)[:16], version=5)  # of this content, and no other
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{number}",
        "version": 1,
        **content,
    }


def _described(one: Component) -> dict[str, Any]:
    said: Mapping[str, Any] = {"licenses": [{"expression": one.licence}]} if one.licence else {}
    return {"bom-ref": one.reference, "name": one.name, "version": one.version, "purl": one.reference, **said}


def _allowed(expression: str) -> bool:
    """Whether one of the alternatives of an SPDX expression has nothing but allowed licences in it."""
    plain = expression.replace("(", " ").replace(")", " ")
    return any(set(_ids(part)) <= ALLOWED for part in re.split(r"\s+OR\s+", plain))


def _ids(expression: str) -> list[str]:
    return re.sub(r"[()]", " ", re.sub(r"\b(AND|OR|WITH)\b", " ", expression)).split()


def _requirement(text: str) -> Requirement:
    try:
        return Requirement(text)
    except InvalidRequirement:
        raise DataError(f"{text!r:.80}: an installed package asks for what cannot be read.") from None


def _counts(one: Requirement, extras: set[str]) -> bool:
    return one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras))
