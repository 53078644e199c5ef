"use strict";
// SuccessionLedger.sol as chaincode: who leads a federation when its coordinator is gone for good. NEVER RUN ON A NETWORK.
//
// It lies in the same chaincode as RoundLedger and stands there as the account that `keeper` names, which no certificate makes anybody.
// State: one JSON document for each federation under `line:<id>`.
const { Contract } = require("fabric-contract-api");
const { account, bytes32, uint } = require("./hash");
const { RoundLedger } = require("./ledger");
const { NOBODY, refuse } = require("./rules");

const MOST = 16n;
const LONGEST = (1n << 20n) - 1n;
const NO_LINE = { successors: [], patience: 0n, term: 0n, heard: 0n };

class SuccessionLedger extends Contract {
  #rounds;

  /** Args: domain: as of RoundLedger. */
  constructor(domain) {
    super("SuccessionLedger");
    this.#rounds = new RoundLedger(domain);
  }

  /** Fixes the order, once, before round 1. successorsJson: 1 to 16 accounts; patience: seconds for each place, up to 12 days. */
  async appoint(ctx, federation, successorsJson, patience) {
    const [id, caller, line, state] = await this._led(ctx, federation);
    const successors = JSON.parse(successorsJson).map(account);
    patience = uint(patience, 32);
    if (line.patience !== 0n || (state?.round ?? 0n) !== 0n) refuse("SuccessionFixed", id);
    const count = BigInt(successors.length);
    if (count === 0n || count > MOST) refuse("SuccessorsOutOfRange", id, count, MOST);
    if (patience === 0n || patience > LONGEST) refuse("PatienceOutOfRange", id, patience, LONGEST);
    successors.forEach((successor, place) => {
      const before = place === 0 ? caller : successors[place - 1];
      if (successor === NOBODY || successor === before) refuse("SuccessorInvalid", id, place, successor);
    });
    await this._keep(ctx, id, { successors, patience, term: 0n, heard: this.#rounds._now(ctx) }, "SuccessorsAppointed");
  }

  async reportAlive(ctx, federation) {
    const [id, , line] = await this._led(ctx, federation);
    if (line.patience === 0n) refuse("SuccessionFixed", id);
    await this._keep(ctx, id, { ...line, heard: this.#rounds._now(ctx) }, "LeaderReported");
  }

  async takeOver(ctx, federation, place) {
    const caller = this.#rounds._caller(ctx);
    const [id, line, state] = await this._read(ctx, federation);
    place = uint(place, 32);
    if (line.successors[Number(place)] !== caller) refuse("NotSuccessor", id, place, caller);
    if (place < line.term) refuse("SuccessorPassed", id, place, line.term);
    const until = takeoverTime(line, state, place);
    if (this.#rounds._now(ctx) < until) refuse("TakeoverTooEarly", id, place, until);
    await this._keep(ctx, id, { ...line, term: place + 1n, heard: this.#rounds._now(ctx) });
    await this.#rounds._handOver(ctx, this.#rounds._keeper(ctx), id, caller, "CoordinatorTookOver");
  }

  // --- Questions -----------------------------------------------------------------------------------------------------------

  /** The account to `entrust` a federation to. */
  async keeper(ctx) {
    return this.#rounds._keeper(ctx);
  }

  async succession(ctx, federation) {
    const [, line] = await this._read(ctx, federation);
    const { successors, patience, term, heard } = line;
    return JSON.stringify({ successors, patience: String(patience), term: String(term), heard: String(heard) });
  }

  async takeoverFrom(ctx, federation, place) {
    const [id, line, state] = await this._read(ctx, federation);
    place = uint(place, 32);
    if (place >= BigInt(line.successors.length)) refuse("NotSuccessor", id, place, NOBODY);
    if (place < line.term) refuse("SuccessorPassed", id, place, line.term);
    return String(takeoverTime(line, state, place));
  }

  // --- Internals -----------------------------------------------------------------------------------------------------------

  async _read(ctx, federation) {
    const id = bytes32(federation);
    return [id, (await this.#rounds._get(ctx, `line:${id}`)) ?? NO_LINE, await this.#rounds._get(ctx, `federation:${id}`)];
  }

  async _led(ctx, federation) {
    const caller = this.#rounds._caller(ctx);
    const [id, line, state] = await this._read(ctx, federation);
    await this.#rounds._requireLeader(ctx, id, state, caller);
    return [id, caller, line, state];
  }

  async _keep(ctx, id, line, event) {
    await this.#rounds._put(ctx, `line:${id}`, line);
    if (event) ctx.stub.setEvent(event, Buffer.from(JSON.stringify({ federation: id, term: String(line.term) })));
  }
}

function takeoverTime(line, state, place) {
  const sealedAt = state?.sealedAt ?? 0n;
  const heard = line.heard > sealedAt ? line.heard : sealedAt;
  return heard + line.patience * (place - line.term + 1n);
}

module.exports = { SuccessionLedger };
