"use strict";
// The records that hospitals and coordinator sign, and headers: what `IRoundLedger.sol` declares, read from JSON with all checks.
const { account, bytes, bytes32, keccak, typedDigest, uint, word } = require("./hash");

const UPDATE = [
  ["schema", 16], ["federation"], ["round", 64], ["slot", 32], ["parentModel"], ["parentHead"], ["update"], ["samples"],
  ["metrics"], ["privacy"], ["configHash"], ["nonce", 64], ["deadline", 64]];
const RECEIPT = [["federation"], ["round", 64], ["slot", 32], ["leaf"]];
const ROTATION = [["federation"], ["slot", 32], ["from", "account"], ["to", "account"], ["round", 64]];
const HEADER = [["round", 64], ["previousHead"], ["root"], ["parentModel"], ["model"], ["count", 32], ["annex"]];
const ACCOUNT = [["terms"], ["budget", "pair"], ["said"], ["spent", "pair"]];
const OVERSPENT = [["record", "update"], ["signature", "bytes"], ["account", "spending"], ["proof", "words"], ["annexProof", "words"]];
const KINDS = {
  account,
  bytes: (value) => "0x" + bytes(value).toString("hex"),
  pair: (value) => list(value, 2).map((one) => uint(one, 64)),
  spending: (value) => read(ACCOUNT, value),
  update: (value) => read(UPDATE, value),
  words: (value) => list(value).map(bytes32),
};
const TYPES = {
  update: "ModelUpdate(uint16 schema,bytes32 federation,uint64 round,uint32 slot,bytes32 parentModel,bytes32 parentHead,bytes32 update,bytes32 samples,bytes32 metrics,bytes32 privacy,bytes32 configHash,uint64 nonce,uint64 deadline)",
  receipt: "Receipt(bytes32 federation,uint64 round,uint32 slot,bytes32 leaf)",
  availability: "Availability(bytes32 federation,uint64 round,uint32 slot,bytes32 leaf)",
  rotation: "KeyRotation(bytes32 federation,uint32 slot,address from,address to,uint64 round)",
};

/** A record out of JSON text: exactly these fields, each of its type. */
function read(fields, json) {
  const given = typeof json === "string" ? JSON.parse(json) : json;
  if (given === null || typeof given !== "object" || Array.isArray(given)) throw new Error("not a record");
  const names = Object.keys(given);
  if (names.length !== fields.length) throw new Error(`expected ${fields.length} fields, found ${names.length}`);
  return Object.fromEntries(fields.map(([name, kind]) => {
    if (!Object.hasOwn(given, name)) throw new Error(`lacks the field ${name}`);
    const value = given[name];
    if (KINDS[kind]) return [name, KINDS[kind](value)];
    return [name, kind ? uint(value, kind) : bytes32(value)];
  }));
}

function list(value, length) {
  if (!Array.isArray(value) || value.length !== (length ?? value.length)) throw new Error("not a list of the right length");
  return value;
}

const values = (fields, record) => fields.map(([name]) => record[name]);
const update = (json) => read(UPDATE, json);
const receipt = (json) => read(RECEIPT, json);
const rotation = (json) => read(ROTATION, json);
const header = (json) => read(HEADER, json);
const overspent = (json) => read(OVERSPENT, json);

const updateDigest = (domain, one) => typedDigest(domain, TYPES.update, ...values(UPDATE, one));
const receiptDigest = (domain, one) => typedDigest(domain, TYPES.receipt, ...values(RECEIPT, one));
const availabilityDigest = (domain, one, leaf) =>
  typedDigest(domain, TYPES.availability, one.federation, one.round, one.slot, leaf);
const rotationDigest = (domain, one) => typedDigest(domain, TYPES.rotation, ...values(ROTATION, one));

/** What an annex names of a budget. */
const budgetTerms = (spending) => keccak(...[spending.terms, ...spending.budget].map(word));

/** Whether an update with this field `privacy` has spent more than its budget: what is left of two gradients pays for one. */
function isOverspent({ budget, said, spent }, privacy) {
  if (privacy !== keccak(...[said, ...spent].map(word))) return false;
  return spent[0] + spent[1] > budget[0] + budget[1] || spent[1] > budget[1];
}

/** Head after a round. */
function headOf(domain, federation, one) {
  return keccak(...[
    one.previousHead, domain.chainId, domain.contract, federation, one.round, one.root, one.parentModel, one.model, one.count,
    one.annex].map(word));
}

/** Head of a federation before its first round. */
function genesisHead(domain, federation, one) {
  return keccak(...[
    domain.chainId, domain.contract, federation, one.configHash, one.registryRoot, one.model, one.slots, one.quorum].map(word));
}

module.exports = {
  availabilityDigest, budgetTerms, genesisHead, header, headOf, isOverspent, overspent, receipt, receiptDigest, rotation, rotationDigest, update, updateDigest };
