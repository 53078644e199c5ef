"""Blocks named by their content: the published names, stores that verify, and a node and a gateway that are played."""

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from finished import audit

from engine.audit.report import Verdict
from engine.errors import LedgerError
from engine.experiment import run
from engine.ledger.blobs import MOST, Folder, Kubo, Lost, block_of, cid, digest_in, vector_in
from engine.model import vector_hash
from sweeps.__main__ import main

LAYOUT = (("b", (2, 3)), ("a.weight", (4,)), ("scale", ()))


class Node:
    """A Kubo node, as far as its API on blocks goes, or a gateway; refuses what such a one refuses.

    Attributes:
        blocks: CID -> bytes.
        answers: in place of the block that is asked for.
    """

    def __init__(self, gateway: bool = False) -> None:
        self.blocks: dict[str, bytes] = {}
        self.answers: bytes | None = None
        node = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                place, query = urlsplit(self.path), parse_qs(urlsplit(self.path).query)
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                if gateway:
                    self._say(405, b"method not allowed")
                elif place.path == "/api/v0/block/put":
                    assert (query["cid-codec"], query["mhtype"], query["pin"]) == (["raw"], ["sha2-256"], ["true"])
                    data = part(self.headers["Content-Type"], body)
                    name = cid(hashlib.sha256(data).digest())
                    node.blocks[name] = data
                    self._say(200, json.dumps({"Key": name, "Size": len(data)}).encode())
                elif place.path == "/api/v0/block/get" and query["arg"][0] in node.blocks:
                    self._say(200, node.blocks[query["arg"][0]] if node.answers is None else node.answers)
                else:
                    self._say(500, json.dumps({"Message": "block was not found locally (offline)", "Code": 0}).encode())

            def do_GET(self) -> None:
                name = urlsplit(self.path).path.removeprefix("/ipfs/")
                raw = self.headers["Accept"] == "application/vnd.ipld.raw" and "format=raw" in self.path
                if not gateway or not raw or name not in node.blocks:
                    self._say(404, b"404 page not found")
                else:
                    self._say(200, node.blocks[name] if node.answers is None else node.answers)

            def _say(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def part(kind: str, body: bytes) -> bytes:
    """The one part of a multipart body, which must be well-formed (RFC 7578)."""
    found = re.fullmatch(r"multipart/form-data; boundary=(\w{1,70})", kind)
    assert found
    mark = found[1].encode()
    assert body.startswith(b"--" + mark + b"\r\n")
    assert body.endswith(b"\r\n--" + mark + b"--\r\n")
    head, _, rest = body.partition(b"\r\n\r\n")
    assert b'Content-Disposition: form-data; name="file"; filename=' in head
    return rest.removesuffix(b"\r\n--" + mark + b"--\r\n")


@pytest.fixture
def node() -> Iterator[Node]:
    one = Node()
    yield one
    one.server.shutdown()


def test_names_are_the_published_ones():
    """`ipfs add --cid-version=1 --raw-leaves` of "hello world", and of nothing."""
    assert cid(hashlib.sha256(b"hello world").digest()) == "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
    assert cid(hashlib.sha256(b"").digest()) == "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


@pytest.mark.parametrize("name", ["", "b", "Qm" + "a" * 44, "zb2rhe", "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi", "BAFKREIHDWDCEFGH4DQKJV67UZCMW7OJEE6XEDZDETOJUZJEVTENXQUVYKU", "../x"])  # fmt: skip
def test_other_names_are_refused(name: str, tmp_path: Path):
    with pytest.raises(LedgerError, match="no CIDv1 of a raw block"):
        digest_in(name)
    with pytest.raises(LedgerError, match="no CIDv1"):
        Folder(tmp_path).get(name)


def test_the_name_of_a_model_on_the_ledger_is_that_of_its_block():
    vector = np.arange(11, dtype=np.float32) - 5
    vector[3], vector[4] = -0.0, np.float32("nan")
    block = block_of(vector, LAYOUT)
    assert hashlib.sha256(block).digest() == vector_hash(vector, LAYOUT)
    assert vector_in(block, LAYOUT).tobytes() == vector.tobytes()


def test_a_masked_update_is_a_block_of_its_own_bytes():
    numbers = np.arange(12, dtype=np.int64) * -(2**60)
    assert block_of(numbers, LAYOUT) == numbers.astype("<i8").tobytes()
    assert (vector_in(block_of(numbers, LAYOUT), LAYOUT) == numbers).all()
    with pytest.raises(LedgerError, match="no update of this run's form"):
        vector_in(block_of(numbers, LAYOUT)[:-1], LAYOUT)


def test_a_folder_keeps_blocks_and_gives_back_none_that_is_another(tmp_path: Path):
    store = Folder(tmp_path / "blobs")
    name = store.put(b"block")
    assert store.get(name) == b"block"
    assert [file.name for file in (tmp_path / "blobs").iterdir()] == [name]
    (tmp_path / "blobs" / name).write_bytes(b"black")
    with pytest.raises(LedgerError, match="is damaged"):
        store.get(name)
    (tmp_path / "blobs" / name).unlink()
    with pytest.raises(Lost, match="is lost"):
        store.get(name)


def test_a_node_keeps_blocks_by_its_api(node: Node):
    store, data = Kubo(node.url), b"\r\n--binary\x00" * 1000
    name = store.put(data)
    assert node.blocks == {name: data}
    assert store.get(name) == data
    node.answers = data + b"!"
    with pytest.raises(LedgerError, match="is damaged"):
        store.get(name)
    node.answers = bytes(MOST + 1)
    with pytest.raises(LedgerError, match="larger"):
        store.get(name)
    with pytest.raises(Lost, match="not found"):
        store.get(cid(bytes(32)))


def test_a_gateway_is_read_without_the_api():
    node = Node(gateway=True)
    try:
        name = cid(hashlib.sha256(b"block").digest())
        node.blocks[name] = b"block"
        assert Kubo(node.url).get(name) == b"block"
        with pytest.raises(Lost):
            Kubo(node.url).get(cid(bytes(32)))
        with pytest.raises(LedgerError, match="405"):
            Kubo(node.url).put(b"block")
    finally:
        node.server.shutdown()


@pytest.mark.parametrize("url", ["ftp://x/", "http://", "http://user:secret@host/"])
def test_other_places_are_refused(url: str):
    with pytest.raises(LedgerError, match="a store of blocks is") as refused:
        Kubo(url)
    assert "secret" not in str(refused.value)


def test_a_node_that_does_not_answer_is_told(node: Node):
    node.server.shutdown()
    node.server.server_close()
    with pytest.raises(LedgerError, match="does not answer"):
        Kubo(node.url).get(cid(bytes(32)))


# --- A run ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tiny_config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("blobs") / "run"
    few = {"ledger.backend": "embedded", "ledger.window": 0, "federation.rounds": 1}
    run(tiny_config(**few, **{"aggregation.secure.method": "masks"}), folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


def said(capsys: Any) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


def test_rounds_whose_archive_is_lost_come_back_from_a_node(folder: Path, node: Node, capsys):
    place = [str(folder), "put", node.url]
    assert main(["ledger", "blobs", *place]) == 0
    assert len(node.blocks) == 4  # the first model, three updates
    files = {path.name: path.read_bytes() for path in (folder / "ledger" / "updates").iterdir()}
    shutil.rmtree(folder / "ledger" / "updates")
    lost = audit(folder)
    assert (lost.findings, lost.verdict) == ([], Verdict.NOT_VERIFIED)
    assert main(["ledger", "blobs", str(folder), "get", node.url]) == 0
    assert {path.name: path.read_bytes() for path in (folder / "ledger" / "updates").iterdir()} == files
    assert audit(folder).verdict is Verdict.CLEAN


def test_a_lost_block_is_not_verified_and_a_damaged_one_is_a_finding(folder: Path, capsys):
    assert main(["ledger", "blobs", str(folder), "put"]) == 0
    assert main(["ledger", "blobs", str(folder), "check"]) == 0
    stored = sorted((folder / "blobs").iterdir())
    stored[0].unlink()
    capsys.readouterr()
    assert main(["ledger", "blobs", str(folder), "check", "--json"]) == 4
    assert [one["cid"] for one in said(capsys)["lost"]] == [stored[0].name]
    stored[1].write_bytes(stored[1].read_bytes()[:-1] + b"!")
    assert main(["ledger", "blobs", str(folder), "check"]) == 1
    assert "not verified" in capsys.readouterr().out
    shutil.rmtree(folder / "ledger" / "updates")
    assert main(["ledger", "blobs", str(folder), "get"]) == 2
    assert main(["ledger", "blobs", str(folder / "nowhere"), "check"]) == 2


def test_an_archive_that_was_altered_is_not_put(folder: Path, capsys):
    from safetensors.numpy import load_file, save_file

    path = folder / "ledger" / "updates" / "00001.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "slot-0001": tensors["slot-0001"] + 1}, path)
    assert main(["ledger", "blobs", str(folder), "put"]) == 2
    assert "is not bafkrei" in capsys.readouterr().err
