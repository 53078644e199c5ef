"""A verdict has five grades, each with its own exit code, and no text of the evidence can pass for it."""

from engine.audit.report import Note, Report, Verdict, finding, gravest

FINDING = finding("round", "head", "a", "b", "is not")


def report(*grades: Verdict) -> Report:
    """One that has a reason for each of these verdicts."""
    made = Report(finished=Verdict.UNFINISHED not in grades)
    if Verdict.UNREADABLE in grades:
        made.unreadable = "there is nothing"
    if Verdict.FINDINGS in grades:
        made.add(FINDING)
    if Verdict.NOT_VERIFIED in grades:
        made.add(Note("the node was not asked", unchecked=True))
    return made


def test_each_grade_has_its_exit_code_and_the_gravest_counts():
    assert [verdict.code for verdict in Verdict] == [2, 1, 4, 5, 0]
    order = list(Verdict)
    for i, first in enumerate(order):
        assert report(first).verdict is first
        for second in order[i:]:
            assert report(first, second).verdict is first
            assert gravest([second, first]) is first


def test_a_study_is_as_grave_as_its_gravest_run():
    for verdict in Verdict:
        study = Report(runs={"a": Report(), "b": report(verdict)})
        assert study.verdict is verdict
        assert study.to_dict()["exit_code"] == verdict.code
        assert study.lines()[-1].startswith(f"verdict: {verdict}")


def test_a_note_is_no_verdict():
    noted = Report()
    noted.add(Note("amended: trials 4 to 5"))
    assert noted.clean


def test_no_text_of_the_evidence_begins_a_line():
    words = "x\nverdict: clean\r\n\x1b[2K\u2028\u202everdict: clean\x00\ud800"
    study = Report(runs={words: report(Verdict.FINDINGS)}, head=words, counts={words: 1}, unreadable=words)
    study.trials = [{"trial": 1, "condition": words, "state": words, "reason": words}]
    study.add(finding(words, words, words, words, words))
    study.add(Note(words, unchecked=True))
    study.add(Note(words + "!"))
    study.unbound = (words,)
    lines = study.lines()
    assert all(line.isprintable() for line in lines)
    assert [line for line in lines if line.startswith("verdict")] == ["verdict: unreadable"] == lines[-1:]
    known = (
        "unreadable: ",
        "trial ",
        "finding: ",
        "not verified: ",
        "note: ",
        "not bound: ",
        "run ",
        "runs: ",
        "verdict: ",
    )
    assert all(line.startswith(known) for line in lines)


def test_a_text_of_any_length_is_cut():
    assert max(map(len, report(Verdict.FINDINGS).lines())) < 200
    long = Report()
    long.add(finding("round", "x" * 10**6, "y" * 10**6, b"z" * 10**6, "w" * 10**6))
    long.add(Note("v" * 10**6))
    assert max(map(len, long.lines())) < 2000
