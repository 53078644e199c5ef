"""Who may speak to a coordinator, and what of it counts: certificates, replays, messages that are none."""

import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from sited import PASSWORD

from engine.errors import HospitalError, HospitalLost, LedgerError, ResourceError
from engine.sites.authority import (
    COORDINATOR,
    credentials,
    hospital_in,
    hospital_name,
    issue,
    revoke,
    slot_of,
    valid,
)
from engine.sites.gate import Gate, Item
from engine.sites.orders import PROTOCOL, WIRE, Done, Hello, Order, Validate, Welcome
from engine.sites.site import Ended, Line


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    issue(folder, [COORDINATOR, *map(hospital_name, range(3))], PASSWORD)
    return folder


@pytest.fixture
def gate(keys) -> Iterator[Gate]:
    gate = Gate("{}", 2, keys, "127.0.0.1:0", poll=0.05)
    yield gate
    gate.close(over=False)


@pytest.fixture
def line(gate, keys) -> Iterator[Line]:
    line = Line(f"127.0.0.1:{gate.port}", credentials(keys, "hospital 1"))
    yield line
    line.close()


def hello() -> Hello:
    return Hello(PROTOCOL, secrets.token_bytes(16))


def test_the_certificate_says_who_it_is(line, gate):
    welcome = line.send("Join", hello(), Welcome)
    assert (welcome.hospital, welcome.config, len(welcome.session)) == (1, "{}", 16)
    assert gate.joined() == [1]
    assert line.send("Work", Done(welcome.session, 0, b""), Order) == Order(0, "", b"")


def test_an_order_is_answered_once_and_an_answer_that_comes_again_changes_nothing(line, gate):
    session = line.send("Join", hello(), Welcome).session
    item = Item("withdraw", 1, b"body")
    gate._lines[1].current = item
    gate._lines[1].todo.append(item)
    order = line.send("Work", Done(session, 0, b""), Order)
    assert order == Order(1, "withdraw", b"body")
    assert line.send("Work", Done(session, 0, b""), Order) == order  # its answer was lost: the same order again
    answer = Done(session, 1, WIRE.pack(None))
    assert line.send("Work", answer, Order) == Order(1, "", b"")
    assert item.ready
    assert line.send("Work", answer, Order) == Order(1, "", b"")
    for number, content in ((1, WIRE.pack(HospitalError(1, 1, "train", "another"))), (2, b"x"), (-1, b""), (7, b"")):
        with pytest.raises(Ended, match="is not the one that is out"):
            line.send("Work", Done(session, number, content), Order)


def test_greetings_and_sessions_are_not_replayed(line):
    greeting = hello()
    old = line.send("Join", greeting, Welcome).session
    with pytest.raises(ResourceError, match="used before"):
        line.send("Join", greeting, Welcome)
    line.send("Join", hello(), Welcome)
    with pytest.raises(ResourceError, match="another process of this hospital has joined since"):
        line.send("Work", Done(old, 0, b""), Order)
    with pytest.raises(Ended, match="join again"):
        line.send("Work", Done(b"\0" * 16, 0, b""), Order)
    with pytest.raises(ResourceError, match="speaks version"):
        line.send("Join", Hello(PROTOCOL + 1, b"\0" * 16), Welcome)


def test_a_message_that_is_none_is_refused_and_an_answer_that_is_none_is_the_hospital_s_failure(line, gate):
    with pytest.raises(ResourceError, match="in the place of Hello"):
        line.send("Join", {"a": 1}, Welcome)
    session = line.send("Join", hello(), Welcome).session
    item = Item("validate", 3, WIRE.pack(Validate(3, np.zeros(1, np.float32))))
    gate._lines[1].current = item
    gate._lines[1].todo.append(item)
    line.send("Work", Done(session, 0, b""), Order)
    line.send("Work", Done(session, 1, b"\xc1"), Order)
    assert str(item.answer) == "hospital 1, round 3, validate: its answer is no message (FormatError)"


def test_what_nobody_answers_is_lost_in_time_and_its_session_ends(line, gate):
    session = line.send("Join", hello(), Welcome).session
    found = gate.ask({1: Item("validate", 2, b""), 0: Item("validate", 2, b"")}, 0.1)
    assert [type(found[h]) for h in (0, 1)] == [HospitalLost, HospitalLost]
    assert str(found[0]) == "hospital 0, round 2, validate: it has not joined in 0.1 s"
    with pytest.raises(Ended, match="join again"):
        line.send("Work", Done(session, 0, b""), Order)


def test_strangers_and_the_revoked_are_refused(gate, keys, tmp_path):
    with_others = tmp_path / "others"
    issue(with_others, [COORDINATOR, "hospital 1"], PASSWORD)
    address = f"127.0.0.1:{gate.port}"
    mixed = credentials(with_others, "hospital 1")._replace(authority=credentials(keys, "hospital 1").authority)
    for own, error, words in (
        (mixed, ConnectionError, None),  # TLS itself ends it
        (credentials(with_others, "hospital 1"), ConnectionError, None),
        (credentials(keys, "hospital 2"), ResourceError, "the run has no hospital 2"),
    ):
        line = Line(address, own)
        with pytest.raises(error, match=words):
            line.send("Join", hello(), Welcome)
        line.close()
    own = tmp_path / "own"
    shutil.copytree(keys, own)
    gate._folder = own
    line = Line(address, credentials(own, "hospital 0"))
    assert line.send("Join", hello(), Welcome).hospital == 0
    revoke(own, ["hospital 0"])
    with pytest.raises(ResourceError, match="not in the list of those that count"):
        line.send("Join", hello(), Welcome)
    line.close()
    issue(own, ["hospital 0"], PASSWORD)
    line = Line(address, credentials(own, "hospital 0"))
    assert line.send("Join", hello(), Welcome).hospital == 0
    line.close()


def test_no_hospital_can_pose_as_the_coordinator(keys):
    """Its certificate is of the same authority, but neither for a server nor of that name."""
    own = credentials(keys, "hospital 1")
    server = grpc.server(ThreadPoolExecutor(1))
    secure = grpc.ssl_server_credentials([(own.key, own.certificate)], own.authority, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", secure)
    server.start()
    line = Line(f"127.0.0.1:{port}", credentials(keys, "hospital 0"))
    with pytest.raises(ConnectionError):
        line.send("Join", hello(), Welcome)
    line.close()
    server.stop(0)


def test_the_list_of_certificates(keys, tmp_path):
    assert sorted(valid(keys).values()) == ["coordinator", "hospital 0", "hospital 1", "hospital 2"]
    with pytest.raises(LedgerError, match="hospital 9 has no certificate"):
        revoke(keys, ["hospital 9"])
    with pytest.raises(LedgerError, match="the password is wrong"):
        issue(keys, ["hospital 0"], "another")
    shutil.copytree(keys, tmp_path / "k")
    shutil.copy(tmp_path / "k/hospital-0000.pem", tmp_path / "k/coordinator.pem")
    with pytest.raises(LedgerError, match=r"coordinator\.pem is not the certificate and key of coordinator"):
        credentials(tmp_path / "k", COORDINATOR)
    with pytest.raises(LedgerError, match="holds 3 certificates"):
        hospital_in(keys)
    for name in ("hospital -1", "hospital 01", "coordinator", "hospital ²", "patient 1"):
        with pytest.raises(LedgerError, match="no hospital"):
            slot_of(name)
