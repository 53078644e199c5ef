"""Known databases: one record each, recognised by what their files hold, never by what the files are called.

A hospital numbers its own records 101, 102, too; they are not MIT-BIH's, whose 102 is paced. So a record counts as one
of a known database only if a file of it has a digest of the database's list, or its header has the same comments,
which survive filtering and resampling.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources


@dataclass(frozen=True)
class Dataset:
    """A database of annotated records.

    Attributes:
        name: as in `data.source`.
        title: for messages.
        url: folder of its files, with a slash at the end.
        rate: Hz.
        leads: that its records have; not each record has all of them.
        records: names, in order.
        suffixes: of the files of each record.
        digests: file name -> SHA-256 as published; empty where only the server has the list (SHA256SUMS.txt).
        comments: SHA-256 over the lines of a header's comments -> record.
        patients_known: whether each record is a patient's only one, but for those in `same_patient`.
        same_patient: record -> earlier record of the same patient.
        train, test: the official split of patients, if there is one; records of neither are left out of it.
        pathologies: hospitals by what their patients suffer from, if there is such a list.

    Annotation symbols are WFDB's in all of them, so there is one map of labels (`config.AAMI`).
    """

    name: str
    title: str
    url: str
    rate: float
    leads: tuple[str, ...]
    records: tuple[str, ...]
    suffixes: tuple[str, ...] = (".hea", ".dat", ".atr")
    digests: Mapping[str, str] = field(default_factory=dict)
    comments: Mapping[str, str] = field(default_factory=dict)
    patients_known: bool = False
    same_patient: Mapping[str, str] = field(default_factory=dict)
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    pathologies: tuple[tuple[str, ...], ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files, record by record."""
        return tuple(record + suffix for record in self.records for suffix in self.suffixes)

    @property
    def folder(self) -> str:
        """Name of its folder where it is published."""
        return self.url.split("/")[-3]

    def patient(self, record: str) -> str:
        """Whose record it is."""
        return self.same_patient.get(record, record)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _list(file: str) -> dict[str, str]:
    """Digest -> name, out of a file of lines "digest  name"."""
    text = resources.files("engine.data").joinpath(file).read_text()
    return dict(line.split() for line in text.splitlines())


# de Chazal, O'Dwyer, Reilly 2004 (doi 10.1109/TBME.2004.827359). 201 (DS1) and 202 (DS2) are one man.
DS1 = _words("101 106 108 109 112 114 115 116 118 119 122 124 201 203 205 207 208 209 215 220 223 230")
DS2 = _words("100 103 105 111 113 117 121 123 200 202 210 212 213 214 219 221 222 228 231 232 233 234")
PACED = _words("102 104 107 217")

MITDB = Dataset(
    name="mitdb",
    title="MIT-BIH 1.0.0",
    url="https://physionet.org/files/mitdb/1.0.0/",
    rate=360.0,
    leads=("MLII", "V1", "V2", "V4", "V5"),
    records=tuple(sorted((*DS1, *DS2, *PACED))),
    digests={name: digest for digest, name in _list("mitdb_sha256.txt").items()},
    comments=_list("mitdb_comments.txt"),
    patients_known=True,
    same_patient={"202": "201"},  # the same header line, the same analog tape
    train=DS1,
    test=DS2,
    # paced, supraventricular, ventricular, mixed with bundle branch block, and nearly normal
    pathologies=(
        PACED,
        _words("232 209 222 220 118 201 202 207 234 100 124"),
        _words("208 233 200 106 223 203 119 221 228"),
        _words("213 214 109 111 212 231 210 215 205 116"),
        _words("101 103 105 108 112 113 114 115 117 121 122 123 219 230"),
    ),
)
INCART = Dataset(
    name="incart",
    title="the St Petersburg INCART database 1.0.0",
    url="https://physionet.org/files/incartdb/1.0.0/",
    rate=257.0,
    leads=_words("I II III AVR AVL AVF V1 V2 V3 V4 V5 V6"),
    records=tuple(f"I{number:02}" for number in range(1, 76)),  # of 32 patients, named in the headers' comments
)
SVDB = Dataset(
    name="svdb",
    title="the MIT-BIH Supraventricular Arrhythmia Database 1.0.0",
    url="https://physionet.org/files/svdb/1.0.0/",
    rate=128.0,
    leads=("ECG1", "ECG2"),
    records=tuple(str(number) for number in (*range(800, 813), *range(820, 830), *range(840, 895))),
)
DATASETS = {dataset.name: dataset for dataset in (MITDB, INCART, SVDB)}


def recognised(digests: Iterable[str], comments: Iterable[str]) -> tuple[str, str] | None:
    """Database and record that these files are, or are a copy of; None for what is not known.

    Args:
        digests: SHA-256 of a record's files, in hex.
        comments: lines of its header's comments.
    """
    found = set(digests)
    said = hashlib.sha256("\n".join(comments).encode()).hexdigest()
    for dataset in DATASETS.values():
        files = [file for file, digest in dataset.digests.items() if digest in found]
        if files:
            return dataset.name, files[0].partition(".")[0]
        if said in dataset.comments:
            return dataset.name, dataset.comments[said]
    return None
