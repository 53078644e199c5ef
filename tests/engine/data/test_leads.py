"""Several input leads: which lead of a record is which input, and that each is what it would be alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ecg
import numpy as np
import pytest

from engine.data.beats import load_beats
from engine.data.cohort import build_cohort
from engine.data.config import CohortConfig, DataConfig, OtherConfig
from engine.data.headers import read_header
from engine.data.records import choose
from engine.errors import ConfigError
from engine.settings import parse

Refused = Callable[[Callable[[], object]], str]
Settings = Callable[..., DataConfig]
BOTH = (("MLII", "II"), ("V1",))
COHORT = CohortConfig(hospitals=2, partition="one-record")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two records, whose leads stand in another order and under another name in the second."""
    folder = tmp_path_factory.mktemp("leads")
    ecg.write(folder, "a", seconds=30, leads=("MLII", "V1", "V5"))
    ecg.write(folder, "b", seconds=30, leads=("V1", "V5", "lead II"))
    return folder


@pytest.mark.parametrize("normalise", ["record", "train", "beat", "none"])
@pytest.mark.parametrize("more", [{}, {"rate": 250, "filter": {"band": [0.5, 40]}}])
def test_each_lead_is_what_it_would_be_alone(folder: Path, settings_of: Settings, normalise: str, more: Any) -> None:
    def beats(**keys: Any) -> Any:
        return build_cohort(settings_of(folder, normalise=normalise, **more, **keys), COHORT).beats

    both = beats(leads=BOTH)
    assert both.shape == (2, 252)
    assert [row["leads"] for row in both.records] == [["MLII", "V1"], ["lead II", "V1"]]
    for place, lead in enumerate((("MLII", "II"), "V1")):
        alone = beats(lead=lead)
        assert alone.shape == (1, 252)
        assert np.array_equal(both.x[:, place], alone.x[:, 0])
        assert np.array_equal(both.rr, alone.rr)
        assert both.sample.tolist() == alone.sample.tolist()


def test_a_list_of_one_lead_is_one_lead(folder: Path, settings_of: Settings) -> None:
    one, listed = (load_beats(settings_of(folder, **keys)) for keys in ({"lead": "V5"}, {"leads": (("V5",),)}))
    assert one.digest == listed.digest
    assert one.folder == listed.folder
    assert one.digest != load_beats(settings_of(folder, leads=(("V5",), ("V1",)))).digest


def test_an_input_takes_no_lead_that_an_earlier_one_took(folder: Path, refused: Refused) -> None:
    header = read_header(folder / "b.hea")  # V1, V5, lead II
    assert choose(header, (("MLII", "V5"), ("V5", "V1"))) == (2, 1)
    assert choose(header, (("V5",), ("V5", "V1"))) == (1, 0)
    assert choose(header, (("V1",), (0, 2))) == (0, 2)
    assert refused(lambda: choose(header, (("II",), ("MLII", "V2")))) == (
        f"{folder / 'b.hea'}: has no lead MLII or V2 besides lead II; it has V1, V5, lead II (data.leads)."
    )


def test_a_record_without_one_of_the_leads_is_named(folder: Path, settings_of: Settings, refused: Refused) -> None:
    message = refused(lambda: load_beats(settings_of(folder, leads=(("MLII",), ("MLII", 7)))))
    assert "a.hea: has no lead MLII or number 7 besides MLII; it has MLII, V1, V5 (data.leads)" in message
    assert "2 of 2 records cannot be used" in message


def test_a_beat_that_one_lead_has_lost_is_left_out(tmp_path: Path, settings_of: Settings) -> None:
    peaks = ecg.write(tmp_path, "a", seconds=30)
    signal = np.fromfile(tmp_path / "a.dat", "<i2").reshape(-1, 2)
    signal[3600:5400, 1] = -32768  # marked as lost in V1 alone
    signal[7200:9000, 0] = 500  # flat in MLII alone
    signal.tofile(tmp_path / "a.dat")

    def kept(*leads: str) -> set[int]:
        return set(load_beats(settings_of(tmp_path, leads=tuple((lead,) for lead in leads))).sample.tolist())

    whole = {int(p) for p in peaks if p >= 90 and p + 162 <= len(signal)}
    assert whole - kept("V1") == {p for p in whole if p + 162 > 3600 and p - 90 < 5400}
    assert whole - kept("MLII") == {p for p in whole if p + 162 > 7200 and p - 90 < 9000}
    assert kept("MLII", "V1") == kept("MLII") & kept("V1")
    row = load_beats(settings_of(tmp_path, leads=(("MLII",), ("V1",)))).records[0]
    assert (row["lost"], row["flat"]) == (len(whole - kept("V1")), len(whole - kept("MLII")))


def test_the_report_says_which_leads_were_read(folder: Path, settings_of: Settings) -> None:
    report = build_cohort(settings_of(folder, leads=BOTH), COHORT).report
    assert report["leads"] == {"MLII + V1": ["a"], "lead II + V1": ["b"]}


def test_the_second_database_has_as_many_leads(folder: Path, tmp_path: Path, settings_of: Settings) -> None:
    ecg.write(tmp_path, "x", seconds=31, leads=("I", "II", "V1"))
    other = {"source": "folder", "folder": str(tmp_path)}
    beats = load_beats(settings_of(folder, leads=BOTH, other=OtherConfig(**other)))
    assert beats.records[-1]["leads"] == ["II", "V1"]
    own = load_beats(settings_of(folder, leads=BOTH, other=OtherConfig(**other, leads=(("I",), ("II",)))))
    assert own.records[-1]["leads"] == ["I", "II"]
    assert own.records[0]["leads"] == ["MLII", "V1"]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"lead": "V1", "leads": [["MLII"]]}, "give data.lead, one lead, or data.leads, several, not both"),
        ({"leads": []}, "leads"),
        ({"leads": [[]]}, "must be a lead's name, its number from 0, or a list of such"),
        ({"leads": [["MLII"], [True]]}, "must be a lead's name, its number from 0, or a list of such"),
        ({"leads": [["V1"]] * 17}, "at most 16 items"),
        (
            {"leads": [["MLII"], ["V1"]], "other": {"source": "incart", "lead": "II"}},
            "data.other has 1 input leads, data has 2; they must be as many",
        ),
        ({"other": {"source": "incart", "lead": "II", "leads": [["V1"]]}}, "give lead or leads, not both"),
    ],
)
def test_leads_that_do_not_go_together_are_refused(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(DataConfig, keys, "test")
    assert says in str(caught.value)
