"""Hospitals at sites: runs over mutually authenticated TLS on this machine's loopback, with the bits of one in this process."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from failing import led_by, silent
from finished import audit
from lines import BadLine
from reference import ROOT, Watch
from sited import PASSWORD, Federation, made

from engine.data.beats import open_beats
from engine.data.cohort import build_cohort
from engine.errors import ConfigError, DataError, HospitalError, LedgerError, Stopped
from engine.experiment import HERE, run
from engine.ledger.keyfiles import read_key_file
from engine.ledger.signer import Memory
from engine.result import Result
from engine.sites.coordinate import told_config
from engine.sites.orders import ORDERS, Welcome, identity_of
from engine.sites.share import cohort_of, own_share, require_share
from engine.sites.site import Site
from engine.sites.store import Store

KEEPS_STATE = {"federation.algorithm": "fedper", "federation.rounds": 3}


@pytest.fixture(autouse=True, scope="module")
def _password() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PULSELEDGER_KEYSTORE_PASSWORD", PASSWORD)
        yield


@pytest.fixture(scope="module")
def federation(tmp_path_factory) -> Federation:
    return made(tmp_path_factory.mktemp("sites"), keystore=True)


@pytest.fixture
def fresh(federation) -> Iterator[Federation]:
    """The federation, as if no site had ever joined anything."""
    yield replace(federation, sent=[], troubles=[], kills=0)
    for hospital in range(federation.hospitals):
        shutil.rmtree(federation.site(hospital) / "kept", ignore_errors=True)


@pytest.fixture(scope="module")
def config(federation, tiny_config):
    """A run with a ledger, whose algorithm has every hospital keep a head of its own."""
    keys = {
        "ledger.backend": "embedded",
        "ledger.keystore": str(federation.home / "keys"),
        "privacy.membership": True,
        **KEEPS_STATE,
    }
    return federation.config(tiny_config, **keys)


@pytest.fixture(scope="module")
def here(config, tmp_path_factory) -> Result:
    """The same in this process, where keys follow from the seed."""
    plain = config.model_copy(update={"ledger": config.ledger.model_copy(update={"keystore": None})})
    return run(plain, tmp_path_factory.mktemp("here") / "run")


def numbers(result: Result) -> dict:
    """What a result says, without times, and without the digest of all records together."""
    told = result.document()
    kept = {
        key: told[key]
        for key in ("model_hash", "final", "validation", "fairness", "calibration", "patients", "membership")
    }
    rounds = [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in told["rounds"]]
    return {**kept, "rounds": rounds, "cohort": {k: v for k, v in told["cohort"].items() if k != "digest"}}


def test_a_run_with_sites_has_the_bits_of_one_in_this_process(fresh, config, here, tmp_path):
    there = fresh.run(fresh.sited(config), tmp_path / "there")
    assert numbers(there) == numbers(here)
    assert not fresh.troubles
    report = audit(tmp_path / "there")
    assert report.clean, [str(finding) for finding in report.findings]
    # private heads are where they were made
    assert list((tmp_path / "there").glob("**/*state*")) == []
    store = Store(fresh.site(1) / "kept", 1)
    assert store.rounds() == [1, 2, 3]
    assert store.past((1, 2, 3), 3).state


def test_sites_that_are_killed_again_and_again_and_a_coordinator_that_is_come_to_the_same_bits(
    fresh, config, here, tmp_path
):
    fresh.dies = lambda hospital, messages: messages % 9 == 3 + 2 * hospital
    rounds = iter([False, True])
    with pytest.raises(Stopped):
        fresh.run(fresh.sited(config), tmp_path / "there", replace(HERE, stopping=lambda: next(rounds)))
    fresh.troubles.clear()  # of sites that found no coordinator any more
    there = fresh.run(fresh.sited(config), tmp_path / "there")
    assert fresh.kills >= 4
    assert numbers(there) == numbers(here)
    assert not fresh.troubles


@pytest.mark.long
def test_a_run_of_sites_is_taken_over_by_a_hospital_with_the_same_bits_and_not_without_its_key(
    fresh, config, here, tmp_path
):
    keys = config.ledger.model_copy(update={"successors": ("deputy", "1"), "patience": 60})
    wanted, folder = fresh.sited(config.model_copy(update={"ledger": keys})), tmp_path / "there"
    rounds = iter([False, True])
    with pytest.raises(Stopped):
        fresh.run(wanted, folder, replace(HERE, stopping=lambda: next(rounds)))
    silent(folder, 120)
    with pytest.raises(LedgerError, match=r"--as 1: cannot read .*hospital-0001\.json.*; .* give its file with --key$"):
        fresh.run(wanted, folder, led_by("1"))
    fresh.troubles.clear()  # of sites that found no coordinator any more
    there = fresh.run(wanted, folder, led_by("1", read_key_file(fresh.site(1) / "keys/hospital-0001.json")))
    assert numbers(there) == numbers(here)
    assert [(term.name, term.round) for term in there.ledger.terms] == [("1", 3)]
    assert not fresh.troubles
    assert audit(folder).findings == []


@pytest.mark.long
def test_lines_with_delay_loss_breaks_and_a_cut_change_no_bit(fresh, config, here, tmp_path):
    """Where no network of one's own is allowed; with namespaces in test_hosts.py."""
    with contextlib.ExitStack() as stack:
        lines: dict[int, BadLine] = {}

        def way(hospital: int, port: int) -> int:
            if hospital not in lines:
                lines[hospital] = stack.enter_context(BadLine(port, breaks=0.01, seed=hospital))
            return lines[hospital].port

        fresh.way, fresh.patience = way, 60.0
        there = fresh.run(
            fresh.sited(config), tmp_path / "there", replace(HERE, observers=(Watch(1, lambda: lines[1].cut(8.0)),))
        )
    assert numbers(there) == numbers(here)
    assert not fresh.troubles
    assert there.lost == ()
    assert sum(line.broken for line in lines.values()) >= 1
    assert min(line.pieces for line in lines.values()) > 20


def test_what_leaves_a_site_is_what_the_page_lists_and_nothing_else(federation, fresh, config, tmp_path):
    """Every byte is looked at: no window, no private head, no name of a record or patient."""
    other = replace(fresh, plain=False)
    shorter = config.federation.model_copy(update={"rounds": 1})
    other.run(other.sited(config.model_copy(update={"federation": shorter})), tmp_path / "there")
    assert not other.troubles
    page = (ROOT / "docs/sites.md").read_text(encoding="utf-8")
    left = b"".join(data for _, _, data in other.sent)
    names = [path.stem.encode() for path in (federation.home / "all").glob("*.hea")]
    assert names
    assert not [name for name in names if name in left]
    kept = Store(other.site(0) / "kept", 0).past((1,), 1).state
    assert kept
    assert not [name for name, head in kept.items() if head.tobytes() in left]
    assert {name for _, name, _ in other.sent} == {"Join", "Work"}
    for method in ORDERS:
        assert f"| `{method}` |" in page, method
    own = own_share(other.sited(config), 0, other.site(0) / "records", None)
    beats = open_beats(own.beats.folder)
    assert own.share.digest.encode() in left  # what does leave is found this way
    assert np.asarray(beats.sample[own.data.test]).tobytes() in left
    assert len(beats) > 50
    assert not [row for row in range(len(beats)) if np.asarray(beats.x[row]).tobytes() in left]


def test_masked_sums_are_added_up_over_sites_also_when_one_is_killed_within_a_round(
    federation, fresh, tiny_config, tmp_path
):
    keys = {"ledger.backend": "embedded", "ledger.keystore": str(federation.home / "keys")}
    plain = federation.config(tiny_config, **{"federation.rounds": 1})
    wanted = federation.config(tiny_config, **keys, **{"aggregation.secure.method": "masks", "federation.rounds": 1})
    here = run(plain, tmp_path / "here")
    fresh.dies = lambda hospital, messages: hospital == 1 and messages == 6  # between two steps of the masks
    there = fresh.run(fresh.sited(wanted), tmp_path / "there")
    assert (there.model_hash, there.final, there.lost) == (here.model_hash, here.final, ())
    assert fresh.kills == 1
    assert not fresh.troubles


def test_predictions_are_those_of_this_process_but_for_names(fresh, config, tmp_path, tiny_config):
    keys = {"federation.rounds": 1, "execution.pool": "inprocess"}
    plain = fresh.config(tiny_config, **keys)
    run(plain, tmp_path / "here")
    replace(fresh, plain=False).run(fresh.sited(plain), tmp_path / "there")
    tables = [pq.read_table(tmp_path / where / "predictions.parquet") for where in ("here", "there")]
    for name in ("hospital", "sample", "model", "true", "predicted", "confidence", "sex", "age"):
        assert tables[0][name].to_pylist() == tables[1][name].to_pylist(), name
    assert set(tables[1]["record"].to_pylist()) <= {f"{h}-{i}" for h in range(3) for i in range(2)}


def test_the_cohort_that_sites_tell_of_is_the_one_of_their_records(fresh, config):
    shares = [own_share(config, h, fresh.site(h) / "records", "(.*)", plain=True).share for h in range(3)]
    told, whole = cohort_of(shares, config.cohort), build_cohort(config.data, config.cohort)
    kept = {key: value for key, value in whole.report.items() if key not in ("digest", "patients_source")}
    assert {key: told.report[key] for key in kept} == kept
    assert [len(h.test) for h in told.hospitals] == [len(h.test) for h in whole.hospitals]


@pytest.mark.parametrize(
    "lie",
    [
        lambda share: share._replace(classes=("N",)),
        lambda share: share._replace(counts={**share.counts, "train": (10**9, *share.counts["train"][1:])}),
        lambda share: share._replace(record=share.record + 1000),
        lambda share: share._replace(sample=share.sample[1:]),
        lambda share: share._replace(shape=(1, 10**6)),
        lambda share: share._replace(records=share.records * 2),
        lambda share: share._replace(records=(share.records[0]._replace(name="x" * 1000), *share.records[1:])),
        lambda share: share._replace(records=(share.records[0]._replace(copy_of="?"), *share.records[1:])),
    ],
)
def test_a_site_that_contradicts_itself_is_refused(fresh, config, lie):
    share = own_share(config, 0, fresh.site(0) / "records", None).share
    require_share(share, config.data)
    with pytest.raises(DataError, match="contradicts itself"):
        require_share(lie(share), config.data)


def test_a_site_works_under_the_configuration_that_it_expects_and_no_other(fresh, config):
    text = told_config(fresh.sited(config))
    for expected in ("", identity_of(text)[:12], identity_of(text)):
        Site(replace(fresh.at(0), expected=expected)).begin(Welcome(b"", 0, text))
    with pytest.raises(ConfigError, match="this site works under 0123 only"):
        Site(replace(fresh.at(0), expected="0123")).begin(Welcome(b"", 0, text))
    with pytest.raises(DataError, match="belongs to another run"):
        Site(fresh.at(0)).begin(Welcome(b"", 0, text.replace('"seed":0', '"seed":1')))
    with pytest.raises(ConfigError, match="takes this site for hospital 1"):
        Site(fresh.at(0)).begin(Welcome(b"", 1, text))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.network", "/etc/passwd.py:network"),
        ("execution.pool", "inprocess"),
        ("attack.method", "backdoor"),
        ("cohort.split", "inter-patient"),
        ("privacy.secret", 7),
    ],
)
def test_a_site_looks_itself_at_what_the_coordinator_wants(fresh, config, key, value):
    told = json.loads(told_config(fresh.sited(config)))
    section, name = key.split(".")
    told[section][name] = value
    with pytest.raises(ConfigError):
        Site(fresh.at(0)).begin(Welcome(b"", 0, json.dumps(told)))
    with pytest.raises(ConfigError, match="no JSON"):
        Site(fresh.at(0)).begin(Welcome(b"", 0, "{"))


def test_a_site_that_does_not_come_is_named(fresh, config, tmp_path):
    with pytest.raises(HospitalError, match=r"hospital 1, round 0, share: it has not joined in 1\.5 s"):
        fresh.run(fresh.sited(config, deadline=1.5), tmp_path / "there", hospitals=(0, 2))


def test_a_hospital_signs_no_second_update_for_a_round(tmp_path):
    store = Store(tmp_path, 0)
    store.bind("a")
    store.trained(1, {}, 5, Memory(1, b"\1" * 32, b"\2" * 32))
    store.trained(1, {}, 5, Memory(1, b"\1" * 32, b"\2" * 32))
    with pytest.raises(DataError, match="signs no second one"):
        Store(tmp_path, 0).trained(1, {}, 5, Memory(1, b"\3" * 32, b"\2" * 32))
    with pytest.raises(DataError, match="belongs to another run"):
        store.bind("b")
    with pytest.raises(DataError, match="holds nothing of round 2"):
        store.past((1, 2), 2)


def test_old_private_states_are_let_go_and_what_was_measured_stays(tmp_path):
    store = Store(tmp_path, 7)
    store.bind("a")
    for round in range(1, 8):
        store.trained(round, {"head": np.full(3, round, np.float32)}, round, None)
        store.measured(round, np.full((2, 2), round))
    kept = store.past(tuple(range(1, 8)), 7)
    assert kept.state["head"].tolist() == [7, 7, 7]
    assert [one.gradients[7] for one in kept.measured] == [*range(1, 8)]
    assert [int(one.tables[7][0, 0]) for one in kept.measured] == [*range(1, 8)]
    assert store.past((1, 2, 3, 4), 4).state["head"].tolist() == [4, 4, 4]
    with pytest.raises(DataError, match="too old"):
        store.past((1, 2), 2)


def test_a_finished_run_started_again_opens_no_gate(tiny_config, tmp_path):
    """Its result is there; a gate would want certificates, which are not."""
    result = run(tiny_config(), tmp_path)
    assert run(tiny_config(**{"execution.pool": "sites"}), tmp_path) == result
