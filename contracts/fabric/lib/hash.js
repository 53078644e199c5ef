"use strict";
// Words, hashes, trees and signatures as in the Solidity contracts: Keccak-256, ABI words, EIP-712, positional trees.
const { secp256k1 } = require("@noble/curves/secp256k1");
const { keccak_256 } = require("@noble/hashes/sha3");

const ZERO = "0x" + "00".repeat(32);

/** Bytes of a hex text with 0x. */
function bytes(hex) {
  if (typeof hex !== "string" || !/^0x([0-9a-fA-F]{2})*$/.test(hex)) throw new Error(`not hex: ${String(hex).slice(0, 80)}`);
  return Buffer.from(hex.slice(2), "hex");
}

/** 32 bytes as hex, in one case. */
function bytes32(hex) {
  const raw = bytes(hex);
  if (raw.length !== 32) throw new Error(`expected 32 bytes, found ${raw.length}`);
  return "0x" + raw.toString("hex");
}

/** An address in lower case. */
function account(hex) {
  const raw = bytes(hex);
  if (raw.length !== 20) throw new Error(`expected an address, found ${raw.length} bytes`);
  return "0x" + raw.toString("hex");
}

/** An unsigned integer of so many bits, from decimal text. */
function uint(text, bits) {
  if (!/^(0|[1-9][0-9]{0,77})$/.test(String(text))) throw new Error(`not an unsigned integer: ${String(text).slice(0, 80)}`);
  const value = BigInt(text);
  if (value >> BigInt(bits)) throw new Error(`${value} does not fit into ${bits} bits`);
  return value;
}

/** One ABI word: an integer, or hex that is padded on the left. */
function word(value) {
  if (typeof value === "bigint") return Buffer.from(value.toString(16).padStart(64, "0"), "hex");
  const raw = bytes(value);
  return Buffer.concat([Buffer.alloc(32 - raw.length), raw]);
}

function keccak(...parts) {
  return "0x" + Buffer.from(keccak_256(Buffer.concat(parts))).toString("hex");
}

const text = (value) => Buffer.from(value, "utf8");
const typehash = (type) => keccak(text(type));
const EMPTY = keccak(Buffer.concat([Buffer.from([2]), text("PulseLedger empty slot")]));
const EIP712_DOMAIN = typehash("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");

/** Digest of a record of static fields under a domain {chainId, contract}. */
function typedDigest(domain, type, ...fields) {
  const separator = keccak(
    word(EIP712_DOMAIN), word(keccak(text("PulseLedger"))), word(keccak(text("2"))), word(domain.chainId), word(domain.contract));
  return keccak(Buffer.from([0x19, 0x01]), bytes(separator), bytes(keccak(word(typehash(type)), ...fields.map(word))));
}

/** The address that signed a digest; the zero address for what is no signature. Of two valid s only the lower counts. */
function signer(digest, signature) {
  const none = "0x" + "00".repeat(20);
  const raw = bytes(signature);
  if (raw.length !== 65 || (raw[64] !== 27 && raw[64] !== 28)) return none;
  try {
    const parsed = secp256k1.Signature.fromCompact(raw.subarray(0, 64)).addRecoveryBit(raw[64] - 27);
    if (parsed.hasHighS()) return none;
    const point = parsed.recoverPublicKey(bytes(digest).toString("hex")).toRawBytes(false);
    return "0x" + keccak(Buffer.from(point.subarray(1))).slice(-40);
  } catch {
    return none;
  }
}

/** Whether `leaf` sits in a slot of a positional tree; the proof must have exactly the length of the tree's depth. */
function inTree(root, slot, leaf, slots, proof) {
  let depth = 0n;
  while (1n << depth < slots) depth += 1n;
  if (slot >= slots || BigInt(proof.length) !== depth) return false;
  let node = leaf;
  proof.forEach((sibling, level) => {
    const pair = (slot >> BigInt(level)) & 1n ? [sibling, node] : [node, sibling];
    node = keccak(Buffer.from([1]), ...pair.map(bytes));
  });
  return node === root;
}

/** Whether an annex holds a digest under a name, whose hash is given: pairs are sorted, leaves hashed twice. */
function annexHolds(annex, name, digest, proof) {
  let node = keccak(bytes(keccak(word(name), word(digest))));
  for (const sibling of proof) node = keccak(...[node, sibling].sort().map(bytes));
  return node === annex;
}

/** The leaf of a signed update: version, slot, digest, signature. */
function updateLeaf(schema, slot, digest, signature) {
  const place = Buffer.alloc(7);
  place.writeUInt16BE(Number(schema), 1);
  place.writeUInt32BE(Number(slot), 3);
  return keccak(place, bytes(digest), bytes(signature));
}

/** The leaf of a hospital in the registry. */
function hospitalLeaf(slot, holder, organisation) {
  const place = Buffer.alloc(5);
  place.writeUInt32BE(Number(slot), 1);
  return keccak(place, bytes(holder), bytes(organisation));
}

module.exports = { EMPTY, ZERO, account, annexHolds, bytes, bytes32, hospitalLeaf, inTree, keccak, signer, text, typedDigest, uint, updateLeaf, word };
