"""`result.json`: what was written is read, whatever else stands in a file is refused in one sentence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from results import values, whole

from engine.errors import DataError
from engine.metrics import federation_scores
from engine.result import (
    RESULT,
    SCORES,
    VERSION,
    BothScores,
    PersonalScores,
    Result,
    RoundSummary,
    Scores,
    read_rounds,
)

WHOLE = whole(Result)


def keys(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths of everything in a document, but for what stands in its configuration."""
    inside: list[tuple[str | int, Any]] = []
    if isinstance(value, dict) and path != ("config",):
        inside = list(value.items())
    elif isinstance(value, list):
        inside = list(enumerate(value))
    return [found for key, child in inside for found in ((*path, key), *keys(child, (*path, key)))]


KEYS = keys(WHOLE)
AREAS = list(dict.fromkeys(path[0] for path in KEYS))


def changed(path: tuple[str | int, ...], *new: Any) -> dict[str, Any]:
    """WHOLE with another value at a path, or without it."""
    document = json.loads(json.dumps(WHOLE))
    place = document
    for key in path[:-1]:
        place = place[key]
    if new:
        place[path[-1]] = new[0]
    else:
        del place[path[-1]]
    return document


def put(folder: Path, document: Any) -> Path:
    (folder / RESULT).write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return folder


def refused(folder: Path, document: Any) -> str:
    """Why a file is refused, without the path and the frame that every refusal has."""
    with pytest.raises(DataError) as error:
        Result.read(put(folder, document))
    text = str(error.value)
    start, end = f"{folder / RESULT}: is not readable (", ")."
    assert text.startswith(start)
    assert text.endswith(end)
    assert "\n" not in text
    return text.removeprefix(start).removesuffix(end)


# --- Round trip -------------------------------------------------------------------------------------------------------


@given(values(Result))
def test_what_was_written_is_read(tmp_path_factory, result: Result):
    folder = tmp_path_factory.mktemp("round")
    result.write(folder)
    assert Result.read(folder) == result
    document = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    assert document == result.document()
    assert document["version"] == VERSION == 5


def test_a_whole_document_is_written_as_it_was_read(tmp_path: Path):
    assert Result.read(put(tmp_path, WHOLE)).document() == WHOLE
    assert len(KEYS) > 200


def test_what_does_not_apply_is_not_in_the_file(tmp_path: Path):
    less = {name: value for name, value in WHOLE.items() if name != "synthesis"} | {"ledger": {"backend": "none"}}
    result = Result.read(put(tmp_path, less))
    assert (result.synthesis, result.ledger.head, result.score("ledger/gas_per_round")) == (None, None, None)
    assert result.document() == less


def test_what_a_later_release_adds_is_kept_and_written_again(tmp_path: Path):
    for path in ((), ("timing",), ("rounds", 0), ("final", "personal"), ("ledger",)):
        document = changed((*path, "epsilon"), 3.5)
        assert Result.read(put(tmp_path, document)).document() == document


def test_a_result_is_frozen(tmp_path: Path):
    result = Result.read(put(tmp_path, WHOLE))
    for record, name in ((result, "name"), (result.final.personal, "macro_f1"), (result.rounds[0], "round")):
        with pytest.raises(ValueError, match="frozen"):
            setattr(record, name, getattr(record, name))


def test_the_end_changes_time_and_ledger_only(tmp_path: Path):
    result = Result.read(put(tmp_path, WHOLE))
    closed = result.ledger.model_copy(update={"closing": "0xab"})
    ended = result.ended(12.5, closed)
    assert (ended.timing.total_seconds, ended.ledger.closing) == (12.5, "0xab")
    assert ended.ended(1.5, result.ledger) == result


# --- Scores by path ---------------------------------------------------------------------------------------------------


def test_scores_have_paths(tmp_path: Path):
    document = changed(("validation", "personal", "recall", "N"), 0.25)
    document["final"]["global"]["macro_f1"] = 0.5
    result = Result.read(put(tmp_path, document))
    assert result.score("validation/personal/recall/N") == 0.25
    assert result.score("final/global/macro_f1") == 0.5
    assert result.score("timing/total_seconds") == 1.5
    assert result.score("validation/personal/recall/Q") is None  # this cohort has no Q
    for path in ("final/global/hurt_share", "final/local/accuracy", "accuracy", "timing/days"):
        with pytest.raises(KeyError, match=path):
            result.score(path)


def test_every_single_score_of_every_model_has_a_path(tmp_path: Path):
    assert SCORES == (
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
        "recall_min",
        "rare_recall",
        "mean_hospital_macro_f1",
        "worst_hospital_macro_f1",
        "worst_hospital_accuracy",
        "worst_tenth_macro_f1",
        "variance_hospital_macro_f1",
        "jain_index",
    )
    result = Result.read(put(tmp_path, WHOLE))
    for model in ("global", "personal"):
        assert [result.score(f"final/{model}/{name}") for name in SCORES] == [1.5] * len(SCORES)
    assert result.final.of("global") is result.final.global_
    assert result.final.of("personal") is result.final.personal


def test_scores_of_hospitals_without_beats_are_none():
    nothing = {0: np.zeros((2, 2), np.int64), 1: np.zeros((2, 2), np.int64)}
    table = federation_scores(nothing, "NS", nothing)
    scores = PersonalScores.model_validate(table)
    assert (scores.accuracy, scores.macro_f1, scores.worst_hospital_macro_f1, scores.hurt_share) == (None,) * 4
    assert scores.per_hospital == ()
    assert scores.document() == table
    both = BothScores(global_=Scores.model_validate(federation_scores(nothing, "NS")), personal=scores)
    assert set(both.document()) == {"global", "personal"}
    assert "hurt_share" not in both.document()["global"]


# --- Files that are no result -----------------------------------------------------------------------------------------


def may_be_absent(path: tuple[str | int, ...]) -> bool:
    """An item of a list, an entry of a mapping with free keys, or a field that does not apply to every run."""
    everywhere = {
        "synthesis",
        "hostile",
        "closing",
        "privacy",
        "committee",
        "backdoor",
        "membership",
        "clock",
        "virtual",
        "leader",
        "target_seconds",
        "target_joules",
        "association",
        "topology",
        "alone",
    }
    optional = everywhere | ({"hospitals"} if path[0] == "ledger" else set())
    return isinstance(path[-1], int) or path[-1] == "N" or path[-1] in optional


@pytest.mark.parametrize("each", [pytest.param(1, marks=pytest.mark.long), 3], ids=["all", "a third"])
@pytest.mark.parametrize("area", AREAS)
def test_a_file_without_a_key_is_refused_by_its_name(tmp_path: Path, area: str, each: int):
    for path in [path for path in KEYS if path[0] == area][::each]:
        document = changed(path)
        if may_be_absent(path):
            assert Result.read(put(tmp_path, document)).document() == document, path
            continue
        reason = refused(tmp_path, document)
        assert str(path[-1]) in reason, path
        assert ".".join(map(str, path[:-1])) in reason, path


@pytest.mark.parametrize("each", [pytest.param(1, marks=pytest.mark.long), 3], ids=["all", "a third"])
@pytest.mark.parametrize("area", AREAS)
def test_a_value_of_another_type_is_refused_by_its_key(tmp_path: Path, area: str, each: int):
    for path in [path for path in KEYS if path[0] == area][::each]:
        here: Any = WHOLE
        for key in path:
            here = here[key]
        wrong = "wrong" if isinstance(here, dict | list | float) else {"wrong": 1} if here is True else []
        reason = refused(tmp_path, changed(path, wrong))
        if path == ("version",):
            assert reason == f"version is [], this release reads version {VERSION}"
        else:
            assert reason.startswith(".".join(map(str, path))), path


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (("parameters",), True),
        (("parameters",), 1.5),
        (("parameters",), "1"),
        (("timing", "total_seconds"), "1.5"),
        (("timing", "total_seconds"), float("nan")),
        (("timing", "total_seconds"), float("inf")),
        (("final", "global", "macro_f1"), float("nan")),
        (("cohort", "hospitals", 0, "trains"), 1),
        (("name",), 5),
        (("cohort",), None),
        (("lost",), None),
        (("rounds", 0, "validation", "support", "N"), None),
        (("config", "seed"), -1),
        (("config", "cohort", "alpah"), 0.3),
        (("config", "data", "lead"), []),
    ],
)
def test_a_value_that_is_nearly_right_is_refused_by_its_key(tmp_path: Path, path: tuple[str, ...], wrong: Any):
    assert refused(tmp_path, changed(path, wrong)).startswith(".".join(map(str, path)))


def test_files_of_another_version_say_so(tmp_path: Path):
    old = {name: value for name, value in WHOLE.items() if name != "version"}
    assert refused(tmp_path, old) == (
        f"version is missing: it is no result, or one of an older release; this one reads version {VERSION}"
    )
    for version in (0, 1, "2", None, 1.5):
        assert refused(tmp_path, {**WHOLE, "version": version}) == (
            f"version is {version!r}, this release reads version {VERSION}"
        )
    # whatever else such a file holds
    assert refused(tmp_path, {"version": 9, "scores": []}) == f"version is 9, this release reads version {VERSION}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is no JSON: Expecting value: line 1 column 1 (char 0)"),
        ("Dear diary", "it is no JSON: Expecting value: line 1 column 1 (char 0)"),
        ("[]", "it holds a list, not a result"),
        ("null", "it holds a NoneType, not a result"),
        ('"result"', "it holds a str, not a result"),
        ("{}", "version is missing: it is no result, or one of an older release; this one reads version 5"),
        ("[" * 5000 + "]" * 5000, "it is no JSON: nested too deeply"),
    ],
    ids=["empty", "text", "list", "null", "string", "object", "deep"],
)
def test_foreign_files_say_what_they_are(tmp_path: Path, text: str, reason: str):
    assert refused(tmp_path, text) == reason


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path):
    text = json.dumps(WHOLE, indent=1)
    for end in range(0, len(text), 97):
        assert refused(tmp_path, text[:end]).startswith("it is no JSON: ")
    assert refused(tmp_path, text + text).startswith("it is no JSON: Extra data")


@given(place=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_a_byte_that_changed_never_ends_in_a_traceback(tmp_path_factory, place: int, byte: int):
    folder = tmp_path_factory.mktemp("byte")
    content = bytearray(json.dumps(WHOLE).encode())
    content[place % len(content)] = byte
    (folder / RESULT).write_bytes(content)
    try:
        Result.read(folder)
    except DataError as error:
        text = str(error)
        assert text.startswith(f"{folder / RESULT}: is not readable (")
        assert text.endswith(").")
        assert "\n" not in text


def test_a_folder_without_a_result_and_a_file_of_other_bytes_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=f"^{tmp_path}: holds no finished run \\(result.json is missing\\)\\.$"):
        Result.read(tmp_path)
    (tmp_path / RESULT).write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"is not readable \(it is no text in UTF-8\)\.$"):
        Result.read(tmp_path)
    (tmp_path / "folder" / RESULT).mkdir(parents=True)
    with pytest.raises(DataError, match=r"is not readable \(is no plain file\)\.$"):
        Result.read(tmp_path / "folder")


def test_a_result_of_another_configuration_is_refused(tmp_path: Path):
    put(tmp_path, {**WHOLE, "config_hash": "a" * 64})
    assert Result.read(tmp_path, "a" * 64).config_hash == "a" * 64
    with pytest.raises(DataError) as error:
        Result.read(tmp_path, "b" * 64)
    assert str(error.value) == (
        f"{tmp_path / RESULT}: belongs to another configuration ({'a' * 12}, not {'b' * 12}); use another folder."
    )


# --- Rounds of a checkpoint -------------------------------------------------------------------------------------------


def test_rounds_are_read_from_plain_rows_or_refused_by_key():
    row = whole(RoundSummary)
    (summary,) = read_rounds([row], Path("there"))
    assert summary.document() == row
    for damaged, reason in (
        ([{**row, "lost": [1]}], "rounds: lost.0 is 1: input should be a valid string"),
        ([{n: v for n, v in row.items() if n != "train_loss"}], "rounds: train_loss: field required"),
        ([[]], "rounds: input should be"),
    ):
        with pytest.raises(DataError) as error:
            read_rounds(damaged, Path("there"))
        assert str(error.value).lower().startswith(f"there: is not readable ({reason}")
        assert str(error.value).endswith(").")
