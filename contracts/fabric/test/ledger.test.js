"use strict";
// The chaincode against what the Solidity contracts answered to the same calls, by way of fabric-shim's own dispatcher.
const assert = require("node:assert/strict");
const { test } = require("node:test");
const { ChaincodeFromContract } = requireDispatcher();
const { RoundLedger, domainOf } = require("../lib/ledger");
const { SuccessionLedger } = require("../lib/succession");
const vectors = require("./vectors.json");

function requireDispatcher() {
  const path = require("node:path");
  const found = path.join(path.dirname(require.resolve("fabric-shim/package.json")), "lib/contract-spi/chaincodefromcontract.js");
  return { ChaincodeFromContract: require(found) };
}

/** What a peer gives a chaincode: state, time, channel, and who calls by attributes of a certificate. */
class Stub {
  constructor(channel = "federation") {
    this.state = new Map();
    this.events = [];
    this.channel = channel;
    this.time = 0n;
  }

  getFunctionAndParameters() { return { fcn: this.call, params: this.params }; }
  getBufferArgs() { return [this.call, ...this.params].map((one) => Buffer.from(one)); }
  getTxTimestamp() { return { seconds: { toString: () => String(this.time) }, nanos: 0 }; }
  getChannelID() { return this.channel; }
  getCreator() { return { mspid: "Hospitals", idBytes: Buffer.from(vectors.certificates[this.caller]) }; }
  getTxID() { return "transaction"; }
  async getState(key) { return this.pending.get(key) ?? this.state.get(key) ?? Buffer.alloc(0); }
  async putState(key, value) { this.pending.set(key, value); }
  setEvent(name, content) { this.pendingEvents.push([name, JSON.parse(content)]); }
}

/** Runs a call as a peer does: what it writes counts only if it ends well. */
class Peer {
  constructor(domain) {
    const Fixed = function () { return new RoundLedger(domain); };
    const FixedSuccession = function () { return new SuccessionLedger(domain); };
    this.code = new ChaincodeFromContract([Fixed, FixedSuccession], { object: { transaction: "jsonSerializer" }, transaction: "jsonSerializer", serializers: { jsonSerializer: requireSerializer() } },
      {}, "RoundLedger", "1");
    this.stub = new Stub();
  }

  async run(caller, time, call, ...params) {
    const stub = this.stub;
    Object.assign(stub, { caller, time: BigInt(time), call, params, pending: new Map(), pendingEvents: [] });
    const answer = await this.code.Invoke(stub);
    if (answer.status !== 200) return { refused: answer.message };
    for (const [key, value] of stub.pending) stub.state.set(key, value);
    stub.events.push(...stub.pendingEvents);
    return { value: Buffer.from(answer.payload ?? "").toString() };
  }
}

function requireSerializer() {
  return require("fabric-contract-api").JSONSerializer;
}


async function peer(keeper = vectors.domain.keeper) {
  const { chainId, contract } = vectors.domain;
  const made = new Peer({ chainId: BigInt(chainId), contract, keeper });
  for (const [role, name] of [["COORDINATOR_ROLE", "coordinator"], ["COORDINATOR_ROLE", "second"], ["AUDITOR_ROLE", "auditor"]]) {
    assert.deepEqual(await made.run("admin", 1, "grantRole", role, vectors.accounts[name]), { value: "" });
  }
  return made;
}

test("every call is answered as by the Solidity contracts, and leaves the same state", async () => {
  const made = await peer();
  const statuses = ["NONE", "OPEN", "SEALED", "DISPUTED", "FINAL", "VOID"];
  let refused = 0;
  for (const [number, one] of vectors.calls.entries()) {
    const where = `call ${number}, ${one.call}${one.why ? ` (${one.why})` : ""}`;
    const answer = await made.run(one.caller, one.time, one.call, ...one.args);
    const name = (text) => text.replace(/^.*?(?=[A-Z][A-Za-z]+\()/s, "").trim();
    if (one.refused) {
      refused += 1;
      assert.ok(answer.refused, `${where} was not refused`);
      const said = name(answer.refused);
      // of the role the Solidity contract names account and hash
      if (one.refused.startsWith("AccessControl")) assert.match(said, /^AccessControlUnauthorizedAccount\(/, where);
      else assert.equal(said, one.refused, where);
    } else {
      assert.equal(answer.refused, undefined, where);
    }
    const told = await made.run("stranger", one.state?.asked ?? one.time, "federationState", one.federation);
    if (one.state === null) {
      assert.match(told.refused, /FederationUnknown/, where);
      continue;
    }
    const { status, line, asked, ...expected } = one.state;
    assert.deepEqual(JSON.parse(told.value), expected, where);
    for (const [round, number_] of Object.entries(status)) {
      const found = await made.run("stranger", asked, "roundStatus", one.federation, round);
      assert.equal(found.value, statuses[number_], `${where}: status of round ${round}`);
    }
    const { from, ...order } = line;
    const found = await made.run("stranger", asked, "SuccessionLedger:succession", one.federation);
    assert.deepEqual(JSON.parse(found.value), order, where);
    for (const [place, until] of Object.entries(from)) {
      const told = await made.run("stranger", asked, "SuccessionLedger:takeoverFrom", one.federation, place);
      assert.equal(told.value, until, `${where}: from when place ${place} may take over`);
    }
  }
  assert.ok(refused > 120);
  assert.ok(vectors.calls.length - refused > 60);
});

test("a refused call writes nothing, a good one tells of it", async () => {
  const made = await peer();
  const before = made.stub.state.size;
  const [wrong, right] = [vectors.calls[2], vectors.calls.find((one) => one.call === "openFederation" && !one.refused)];
  assert.ok((await made.run(wrong.caller, 5, wrong.call, ...wrong.args)).refused);
  assert.equal(made.stub.state.size, before);
  await made.run(right.caller, 5, right.call, ...right.args);
  assert.equal(made.stub.state.size, before + 1);
  assert.deepEqual(made.stub.events.map(([name]) => name), ["FederationOpened"]);
});

test("roles are given by the admin alone, one to an account", async () => {
  const made = await peer();
  const { stranger, coordinator } = vectors.accounts;
  assert.match((await made.run("coordinator", 1, "grantRole", "COORDINATOR_ROLE", stranger)).refused, /AccessControlUnauthorizedAccount/);
  assert.match((await made.run("admin", 1, "grantRole", "AUDITOR_ROLE", coordinator)).refused, /RolesConflict/);
  assert.match((await made.run("admin", 1, "grantRole", "KING", stranger)).refused, /no such role/);
  assert.match((await made.run("admin", 1, "grantRole", "AUDITOR_ROLE", vectors.accounts.admin)).refused, /RolesConflict/);
  await made.run("admin", 1, "revokeRole", "COORDINATOR_ROLE", coordinator);
  const right = vectors.calls.find((one) => one.call === "openFederation" && !one.refused);
  assert.match((await made.run("coordinator", 5, right.call, ...right.args)).refused, /AccessControlUnauthorizedAccount/);
  await made.run("admin", 1, "pause", "true");
  assert.match((await made.run("second", 5, right.call, ...right.args)).refused, /EnforcedPause/);
});

test("no certificate makes anybody the succession's account, and nobody calls what is within", async () => {
  const open = vectors.calls.find((one) => one.call === "entrust" && !one.refused);
  const before = vectors.calls.slice(0, vectors.calls.indexOf(open)).filter((one) => one.federation === open.federation && !one.refused);
  for (const [keeper, heir, refused] of [["stranger", "second", /NotKeeper\(0x[0-9a-f]{64},0x0{40}\)/], ["auditor", "second", /NotKeeper/]]) {
    const made = await peer(vectors.accounts[keeper]);
    for (const one of [...before, { ...open, args: [open.federation, vectors.accounts.stranger] }]) {
      assert.equal((await made.run(one.caller, one.time, one.call, ...one.args)).refused, undefined);
    }
    const answer = await made.run(keeper, 9n, "handOver", open.federation, vectors.accounts[heir]);
    assert.match(answer.refused, refused);
  }
  const made = await peer();
  for (const place of ["0", "4294967295", "4294967296", "-1"]) {
    assert.ok((await made.run("stranger", 5, "SuccessionLedger:takeOver", open.federation, place)).refused, place);
  }
  assert.match((await made.run("stranger", 5, "SuccessionLedger:_keep", open.federation)).refused, /does not exist|not found|No such|not exist/i);
  assert.equal((await made.run("stranger", 5, "SuccessionLedger:keeper")).value.replaceAll('"', ""), vectors.domain.keeper);
});

test("what is no argument is refused", async () => {
  const made = await peer();
  const right = vectors.calls.find((one) => one.call === "openFederation" && !one.refused).args;
  for (const [place, value] of [[0, "0x12"], [0, "federation"], [4, "-1"], [4, "1.5"], [4, String(2n ** 32n)], [4, "07"], [6, String(2n ** 24n)]]) {
    const args = right.map((one, i) => (i === place ? value : one));
    assert.ok((await made.run("coordinator", 5, "openFederation", ...args)).refused, `${place}: ${value}`);
  }
  const evidence = vectors.calls.find((one) => one.call === "voidOverspent" && !one.refused).args[2];
  const wrong = ({ account, ...rest }) => [
    { ...rest }, { ...rest, account: { ...account, spent: ["1"] } }, { ...rest, account: { ...account, budget: ["1", "-1"] } },
    { ...rest, account: { ...account, spent: "11" } }, { ...rest, account, annexProof: "0x" }, { ...rest, account, more: "1" },
    { ...rest, account, record: null }, { ...rest, account, signature: "signature" }];
  await made.run("coordinator", 5, "openFederation", ...right);
  for (const one of wrong(JSON.parse(evidence))) {
    const answer = await made.run("stranger", 5, "voidOverspent", right[0], "[]", JSON.stringify(one));
    assert.match(answer.refused, /not |lacks|expected/, JSON.stringify(one));
  }
  for (const record of ["[]", "null", "{}", '{"schema":"2"}', "nothing"]) {
    const answer = await made.run("coordinator", 5, "submitUpdate", record, "0x", vectors.accounts.stranger, vectors.calls[0].federation, "[]");
    assert.ok(answer.refused, record);
  }
});

test("channel and chaincode stand for chain and contract, so no signature counts on two channels", () => {
  const [a, b, c] = [domainOf("one", "ledger"), domainOf("two", "ledger"), domainOf("one", "other")];
  assert.equal(new Set([a, b, c].map((one) => one.contract)).size, 3);
  assert.equal(a.contract.length, 42);
  assert.ok(a.chainId < 1n << 48n);
});
