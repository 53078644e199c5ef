"use strict";
// What a federation's state must be for a call, and refusals.
const { ZERO, bytes32, keccak, signer, word } = require("./hash");

const RING = 4n;
const NOBODY = "0x" + "00".repeat(20);

/** A refusal, in the words of the Solidity contract's errors. */
class Refusal extends Error {
  constructor(name, ...values) {
    super(`${name}(${values.join(",")})`);
    this.name = "Refusal";
  }
}

function refuse(name, ...values) {
  throw new Refusal(name, ...values);
}

function headAt(state, round) {
  return state.heads[Number(round % RING)];
}

function proofOf(json) {
  return JSON.parse(json).map(bytes32);
}

function submissionKey(id, round, parentModel, slot) {
  return `submission:${keccak(...[id, round, parentModel, slot].map(word))}`;
}

/** Requires that a record's model is none that work could begin from, and returns the header of its round. */
function requireTooOld(id, staleness, headers, record) {
  const first = headers[0].round;
  const oldest = record.round > staleness ? record.round - staleness : 1n;
  if (first > oldest) refuse("RoundOutOfOrder", id, oldest, first);
  if (record.round - first >= BigInt(headers.length)) refuse("HeadNotKept", id, record.round);
  for (let round = oldest; round <= record.round; round += 1n) {
    if (headers[Number(round - first)].parentModel === record.parentModel) refuse("EvidenceInconclusive", id, record.round, record.slot);
  }
  return headers[Number(record.round - first)];
}

/** What is over stays over: who voids the last round of a closed federation voids what it came to. */
function phaseAfter(state) {
  return state.closing === ZERO ? "IDLE" : "CLOSED";
}

/** Voids a round with those after it; the next one starts from the model before it. */
function voidFrom(state, header) {
  state.voided.push([header.round, state.round]);
  if (state.model !== header.parentModel) state.submissions = 0n;
  Object.assign(state, { model: header.parentModel, phase: phaseAfter(state) });
}

function requireUndisputed(id, state) {
  if (state.phase === "DISPUTED") refuse("FederationDisputed", id, state.disputed);
}

function requireRunning(id, state) {
  requireUndisputed(id, state);
  if (state.phase === "CLOSED") refuse("FederationOver", id, state.closing);
}

function requireNext(id, state, round) {
  requireRunning(id, state);
  if (round !== state.round + 1n) refuse("RoundOutOfOrder", id, state.round + 1n, round);
}

function requireParent(id, state, round, given) {
  if (given !== state.model) refuse("ParentModelMismatch", id, round, state.model, given);
}

function requireHead(id, state, round, given) {
  const expected = headAt(state, round);
  if (given !== expected) refuse("HeadMismatch", id, round, expected, given);
}

function requireSignature(holder, digest, signature) {
  if (signer(digest, signature) !== holder || holder === NOBODY) refuse("SignatureInvalid", holder, digest);
}

module.exports = {
  NOBODY, RING, headAt, phaseAfter, proofOf, refuse, requireHead, requireNext, requireParent, requireRunning, requireSignature, requireTooOld,
  requireUndisputed, submissionKey, voidFrom };
