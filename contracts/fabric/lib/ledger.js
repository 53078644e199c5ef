"use strict";
// RoundLedger.sol as chaincode: the same calls, rules, order of checks, names of refusals, heads. NEVER RUN ON A NETWORK.
//
// Who calls is told by the certificate's attribute `pulseledger.account`, an address whose roles the admin has written here; the admin
// itself is whoever has the attribute `pulseledger.admin`. Hospitals sign with secp256k1 as everywhere, so the records, receipts and
// proofs of one ledger are those of the other. Time is the transaction's, which its client sets: peers must bound it (docs/fabric.md).
//
// State: one JSON document for each federation under `federation:<id>`, one for each direct submission, each slot and each account.
const { Contract } = require("fabric-contract-api");
const { ZERO, account, annexHolds, bytes32, hospitalLeaf, inTree, keccak, signer, text, uint, updateLeaf } = require("./hash");
const records = require("./records");
const {
  NOBODY, RING, headAt, phaseAfter, proofOf, refuse, requireHead, requireNext, requireParent, requireRunning, requireSignature, requireTooOld,
  requireUndisputed, submissionKey, voidFrom } = require("./rules");

const SCHEMA = 2n;
const KEEP_CLOSED = (1n << 64n) - 1n;
const ROLES = ["COORDINATOR_ROLE", "REVIEWER_ROLE", "AUDITOR_ROLE"];
const STATUS = ["NONE", "OPEN", "SEALED", "DISPUTED", "FINAL", "VOID"];

/** What stands for chain and contract in heads and signatures: the channel and the chaincode's name. */
function domainOf(channel, chaincode) {
  const both = keccak(text(`PulseLedger Fabric 1|${channel}|${chaincode}`));
  return { chainId: BigInt("0x" + both.slice(2, 14)), contract: "0x" + both.slice(-40) };
}

const plain = (value) => JSON.stringify(value, (_, one) => (typeof one === "bigint" ? `${one}n` : one));
const parsed = (json) => JSON.parse(json, (_, one) => (typeof one === "string" && /^[0-9]+n$/.test(one) ? BigInt(one.slice(0, -1)) : one));

class RoundLedger extends Contract {
  #fixed;

  /** Args: domain: as of `domainOf`, and the succession's account as `keeper`; by default those of the channel and of the names. */
  constructor(domain) {
    super("RoundLedger");
    this.#fixed = domain;
  }

  // --- Roles ---------------------------------------------------------------------------------------------------------------

  async grantRole(ctx, role, holder) {
    this._requireAdmin(ctx);
    if (!ROLES.includes(role)) throw new Error(`no such role: ${role}`);
    await this._requireApart(ctx, account(holder), role);
    await this._put(ctx, `account:${account(holder)}`, [role]);
  }

  async revokeRole(ctx, role, holder) {
    this._requireAdmin(ctx);
    const key = `account:${account(holder)}`;
    await this._put(ctx, key, ((await this._get(ctx, key)) ?? []).filter((one) => one !== role));
  }

  async pause(ctx, paused) {
    this._requireAdmin(ctx);
    await this._put(ctx, "paused", paused === "true");
  }

  // --- Rounds --------------------------------------------------------------------------------------------------------------

  async openFederation(ctx, federation, configHash, registryRoot, genesisModel, slots, quorum, window, staleness) {
    const caller = await this._requireRole(ctx, "COORDINATOR_ROLE");
    await this._requireNotPaused(ctx);
    const id = bytes32(federation);
    [slots, quorum, window, staleness] = [slots, quorum, window, staleness].map((one) => uint(one, 32));
    if (await this._get(ctx, `federation:${id}`)) refuse("FederationAlreadyOpen", id);
    if (bytes32(registryRoot) === ZERO) refuse("RegistryIsZero", id);
    if (bytes32(genesisModel) === ZERO) refuse("ModelIsZero", id, 0n);
    if (quorum === 0n || quorum > slots) refuse("QuorumOutOfRange", id, quorum, slots);
    for (const one of [slots, window]) if (one >> 24n) refuse("SafeCastOverflowedUintDowncast", 24n, one);
    const state = {
      configHash: bytes32(configHash), registryRoot: bytes32(registryRoot), model: bytes32(genesisModel), slots, quorum, window, staleness,
      round: 0n, deadline: 0n, sealedAt: 0n, submissions: 0n, phase: "IDLE", coordinator: NOBODY, keeper: NOBODY, entrusted: false, served: {}, disputed: 0n,
      disputedHead: ZERO, finalized: 0n, finalHead: ZERO, marked: 0n, markedAt: 0n, markedHead: ZERO, voided: [], closing: ZERO, heads: [] };
    state.heads = Array(Number(RING)).fill(records.genesisHead(this._domain(ctx), id, state));
    this._serve(state, caller, 0n);
    await this._keep(ctx, id, state, "FederationOpened");
  }

  async openRound(ctx, federation, round, parentModel, deadline) {
    const [caller, id, state] = await this._loadLed(ctx, federation);
    [round, deadline] = [round, deadline].map((one) => uint(one, 64));
    requireNext(id, state, round);
    if (this._isOpen(ctx, state)) refuse("RoundAlreadyOpen", id, round);
    requireParent(id, state, round, bytes32(parentModel));
    await this._open(ctx, state, deadline);
    this._serve(state, caller, round);
    await this._keep(ctx, id, state, "RoundOpened");
  }

  async sealRound(ctx, federation, headerJson, submissions, next) {
    const [caller, id, state] = await this._loadLed(ctx, federation);
    const header = records.header(headerJson);
    [submissions, next] = [uint(submissions, 32), uint(next, 64)];
    const round = header.round;
    this._requireOpenNext(ctx, id, state, round);
    requireHead(id, state, round - 1n, header.previousHead);
    requireParent(id, state, round, header.parentModel);
    if (header.count < state.quorum || header.count > state.slots) {
      refuse("CountOutOfRange", id, round, header.count, state.quorum, state.slots);
    }
    if (header.root === ZERO) refuse("RootIsZero", id, round);
    if (header.model === ZERO) refuse("ModelIsZero", id, round);
    if (submissions !== state.submissions) refuse("SubmissionsMissed", id, round, state.submissions, submissions);
    state.heads[Number(round % RING)] = records.headOf(this._domain(ctx), id, header);
    state.model = header.model;
    this._serve(state, caller, round);
    Object.assign(state, { round, sealedAt: this._now(ctx), submissions: 0n, phase: "IDLE" });
    if (next !== KEEP_CLOSED) await this._open(ctx, state, next);
    await this._keep(ctx, id, state, "RoundSealed");
  }

  async abortRound(ctx, federation) {
    const [id, state] = await this._load(ctx, federation);
    if (state.phase !== "OPEN" || this._isOpen(ctx, state)) refuse("NothingToAbort", id, state.round + 1n);
    state.phase = "ABORTED";
    await this._keep(ctx, id, state, "RoundAborted");
  }

  async submitUpdate(ctx, recordJson, signature, holder, organisation, proofJson) {
    const record = records.update(recordJson);
    const [id, state] = await this._load(ctx, record.federation);
    const { round, slot } = record;
    this._requireOpenNext(ctx, id, state, round);
    if (record.schema !== SCHEMA) refuse("SchemaMismatch", SCHEMA, record.schema);
    this._requireTime(ctx, record.deadline, this._now(ctx));
    requireHead(id, state, round - 1n, record.parentHead);
    requireParent(id, state, round, record.parentModel);
    if (record.configHash !== state.configHash) refuse("ConfigMismatch", id, state.configHash, record.configHash);
    await this._requireHospital(ctx, id, state, slot, account(holder), bytes32(organisation), proofOf(proofJson));
    const digest = records.updateDigest(this._domain(ctx), record);
    requireSignature(account(holder), digest, signature);
    const key = submissionKey(id, round, record.parentModel, slot);
    if (await this._get(ctx, key)) refuse("AlreadySubmitted", id, round, slot);
    await this._put(ctx, key, { leaf: updateLeaf(record.schema, slot, digest, signature), refused: false });
    state.submissions += 1n;
    await this._keep(ctx, id, state, "UpdateSubmitted");
  }

  async refuseUpdate(ctx, federation, slot) {
    const [, id, state] = await this._loadLed(ctx, federation);
    const round = state.round + 1n;
    this._requireOpenNext(ctx, id, state, round);
    const key = submissionKey(id, round, state.model, uint(slot, 32));
    const kept = await this._get(ctx, key);
    if (!kept || kept.refused) refuse("NothingToRefuse", id, round, uint(slot, 32));
    await this._put(ctx, key, { ...kept, refused: true });
  }

  // --- Who leads -----------------------------------------------------------------------------------------------------------

  async entrust(ctx, federation, keeper) {
    const caller = this._caller(ctx);
    const id = bytes32(federation);
    const state = await this._get(ctx, `federation:${id}`);
    if (!state || caller !== state.coordinator || state.entrusted || state.round !== 0n) refuse("NotEntrustable", id, caller);
    Object.assign(state, { keeper: account(keeper), entrusted: true });
    await this._keep(ctx, id, state, "FederationEntrusted");
  }

  /** For a keeper with a certificate of its own; nobody's certificate makes it that of lib/succession.js. */
  async handOver(ctx, federation, heir) {
    const caller = this._caller(ctx);
    await this._handOver(ctx, caller === this._keeper(ctx) ? NOBODY : caller, federation, account(heir), "CoordinatorChanged");
  }

  async requireLeader(ctx, federation, holder) {
    const id = bytes32(federation);
    await this._requireLeader(ctx, id, await this._get(ctx, `federation:${id}`), account(holder));
  }

  // --- Disputes and finality -----------------------------------------------------------------------------------------------

  async dispute(ctx, federation, headersJson, receiptJson, signature, leaf, proofJson) {
    const [id, state] = await this._load(ctx, federation);
    const headers = JSON.parse(headersJson).map(records.header);
    const receipt = records.receipt(receiptJson);
    const first = headers[0];
    this._requireDisputable(ctx, id, state, first.round);
    const disputedHead = this._requireHeaders(ctx, id, state, headers);
    if (receipt.federation !== id || receipt.round !== first.round) {
      refuse("ReceiptMismatch", id, first.round, receipt.federation, receipt.round);
    }
    if (!inTree(first.root, receipt.slot, bytes32(leaf), state.slots, proofOf(proofJson))) refuse("ProofInvalid", first.root, bytes32(leaf));
    const promised = await this._promised(ctx, state, receipt, first.parentModel, signature);
    if (promised === ZERO || promised === bytes32(leaf)) refuse("EvidenceInconclusive", id, first.round, receipt.slot);
    Object.assign(state, { phase: "DISPUTED", disputed: first.round, disputedHead });
    await this._keep(ctx, id, state, "RoundDisputed");
  }

  async disputeUpdate(ctx, federation, headersJson, recordJson, signature, proofJson) {
    const [id, state] = await this._load(ctx, federation);
    const headers = JSON.parse(headersJson).map(records.header);
    const record = records.update(recordJson);
    this._requireDisputable(ctx, id, state, record.round);
    this._requireHeaders(ctx, id, state, headers);
    const header = requireTooOld(id, state.staleness, headers, record);
    this._requireSealedIn(ctx, state, header, record, signature, proofOf(proofJson));
    Object.assign(state, { phase: "DISPUTED", disputed: header.round, disputedHead: records.headOf(this._domain(ctx), id, header) });
    await this._keep(ctx, id, state, "RoundDisputed");
  }

  async voidOverspent(ctx, federation, headersJson, evidenceJson) {
    const [id, state] = await this._load(ctx, federation);
    const headers = JSON.parse(headersJson).map(records.header);
    const { record, signature, account: spending, proof, annexProof } = records.overspent(evidenceJson);
    const first = headers[0];
    this._requireDisputable(ctx, id, state, first.round);
    this._requireHeaders(ctx, id, state, headers);
    this._requireSealedIn(ctx, state, first, record, signature, proof);
    const [name, terms] = [keccak(text("privacy")), records.budgetTerms(spending)];
    if (!annexHolds(first.annex, name, terms, annexProof)) refuse("AnnexProofInvalid", first.annex, name, terms);
    if (!records.isOverspent(spending, record.privacy)) refuse("EvidenceInconclusive", id, first.round, record.slot);
    voidFrom(state, first);
    await this._keep(ctx, id, state, "BudgetExceeded");
  }

  async resolveDispute(ctx, federation, headerJson, voided) {
    const caller = await this._requireRole(ctx, "AUDITOR_ROLE");
    const [id, state] = await this._load(ctx, federation);
    const header = records.header(headerJson);
    if (state.phase !== "DISPUTED") refuse("NoDispute", id);
    // Whoever was handed the federation has no role that would keep it apart from this one.
    if (caller === state.coordinator) refuse("RolesConflict", caller, "COORDINATOR_ROLE", "AUDITOR_ROLE");
    const round = state.disputed;
    if (header.round !== round) refuse("RoundOutOfOrder", id, round, header.round);
    const given = records.headOf(this._domain(ctx), id, header);
    if (given !== state.disputedHead) refuse("HeadMismatch", id, round, state.disputedHead, given);
    if (voided === "true") {
      voidFrom(state, header);
    } else {
      Object.assign(state, { phase: phaseAfter(state), finalized: round, finalHead: given });
    }
    await this._keep(ctx, id, state, "DisputeResolved");
  }

  async finalizeRound(ctx, federation) {
    const [id, state] = await this._load(ctx, federation);
    requireUndisputed(id, state);
    let [round, head] = [state.round, headAt(state, state.round)];
    if (state.finalized === round) refuse("NothingToFinalize", id, round);
    const until = state.sealedAt + state.window;
    if (this._now(ctx) < until) {
      [round, head] = [state.marked, state.markedHead];
      if (round <= state.finalized || this._now(ctx) < state.markedAt + state.window) refuse("WindowOpen", id, state.round, until);
    }
    Object.assign(state, { finalized: round, finalHead: head });
    await this._keep(ctx, id, state, "RoundFinalized");
  }

  async markRound(ctx, federation) {
    const [id, state] = await this._load(ctx, federation);
    requireUndisputed(id, state);
    if (state.finalized === state.round || state.marked > state.finalized) refuse("NothingToFinalize", id, state.round);
    Object.assign(state, { marked: state.round, markedAt: state.sealedAt, markedHead: headAt(state, state.round) });
    await this._keep(ctx, id, state, "RoundMarked");
  }

  async closeFederation(ctx, federation, round, lastHead, closing) {
    const [, id, state] = await this._loadLed(ctx, federation);
    requireRunning(id, state);
    if (uint(round, 64) !== state.round) refuse("RoundOutOfOrder", id, state.round, uint(round, 64));
    requireHead(id, state, state.round, bytes32(lastHead));
    if (bytes32(closing) === ZERO) refuse("ClosingIsZero", id);
    Object.assign(state, { phase: "CLOSED", closing: bytes32(closing) });
    await this._keep(ctx, id, state, "FederationClosed");
  }

  // --- Hospitals -----------------------------------------------------------------------------------------------------------

  async setHospital(ctx, federation, slot, holder, status, organisation) {
    this._requireAdmin(ctx);
    const [id, state] = await this._load(ctx, federation);
    slot = uint(slot, 32);
    if (slot >= state.slots) refuse("SlotOutOfRange", id, slot, state.slots);
    if (account(holder) === NOBODY && status !== "NONE") refuse("AccountIsZero", id, slot);
    if (!["NONE", "ACTIVE", "SUSPENDED"].includes(status)) throw new Error(`no such status: ${status}`);
    const known = await this._get(ctx, `hospital:${id}:${slot}`);
    const entry = { account: account(holder), status, organisation: bytes32(organisation), rotated: known?.rotated ?? 0n };
    await this._put(ctx, `hospital:${id}:${slot}`, entry);
  }

  async rotateKey(ctx, rotationJson, organisation, proofJson, oldSignature, newSignature) {
    const rotation = records.rotation(rotationJson);
    const [id, slot] = [rotation.federation, rotation.slot];
    if (rotation.to === NOBODY) refuse("AccountIsZero", id, slot);
    const state = await this._get(ctx, `federation:${id}`);
    const known = await this._get(ctx, `hospital:${id}:${slot}`);
    await this._requireHospital(ctx, id, state, slot, rotation.from, bytes32(organisation), proofOf(proofJson));
    const digest = records.rotationDigest(this._domain(ctx), rotation);
    requireSignature(rotation.from, digest, oldSignature);
    requireSignature(rotation.to, digest, newSignature);
    const next = state.round + 1n;
    if (rotation.round !== next || rotation.round === (known?.rotated ?? 0n)) refuse("RoundOutOfOrder", id, next, rotation.round);
    const entry = { account: rotation.to, status: "ACTIVE", organisation: bytes32(organisation), rotated: rotation.round };
    await this._put(ctx, `hospital:${id}:${slot}`, entry);
  }

  // --- Questions -----------------------------------------------------------------------------------------------------------

  async head(ctx, federation) {
    const state = await this._get(ctx, `federation:${bytes32(federation)}`);
    return state ? headAt(state, state.round) : ZERO;
  }

  async federationState(ctx, federation) {
    const [, state] = await this._load(ctx, federation);
    const names = ["model", "configHash", "registryRoot", "finalized", "disputed", "closing", "coordinator"];
    const moving = ["round", "deadline", "sealedAt", "slots", "quorum", "window", "submissions", "phase", "staleness"];
    const told = Object.fromEntries([...names, ...moving].map((name) => [name, String(state[name])]));
    return JSON.stringify({ head: headAt(state, state.round), ...told });
  }

  async roundStatus(ctx, federation, round) {
    const state = await this._get(ctx, `federation:${bytes32(federation)}`);
    return state ? this._status(ctx, state, uint(round, 64)) : "NONE";
  }

  async verify(ctx, root, slot, leaf, slots, proofJson) {
    return String(inTree(bytes32(root), uint(slot, 32), bytes32(leaf), uint(slots, 32), proofOf(proofJson)));
  }

  // --- Internals -----------------------------------------------------------------------------------------------------------

  _domain(ctx) {
    return this.#fixed ?? domainOf(ctx.stub.getChannelID(), this.getName());
  }

  /** Seconds since 1970 of the transaction, which all endorsers see alike. */
  _now(ctx) {
    return BigInt(ctx.stub.getTxTimestamp().seconds.toString());
  }

  async _get(ctx, key) {
    const raw = await ctx.stub.getState(key);
    return raw && raw.length ? parsed(Buffer.from(raw).toString("utf8")) : undefined;
  }

  async _put(ctx, key, value) {
    await ctx.stub.putState(key, Buffer.from(plain(value), "utf8"));
  }

  async _keep(ctx, id, state, event) {
    await this._put(ctx, `federation:${id}`, state);
    ctx.stub.setEvent(event, Buffer.from(JSON.stringify({ federation: id, round: String(state.round), head: headAt(state, state.round) })));
  }

  async _load(ctx, federation) {
    const id = bytes32(federation);
    const state = await this._get(ctx, `federation:${id}`);
    if (!state) refuse("FederationUnknown", id);
    return [id, state];
  }

  /** As `_load`, for whoever leads the federation, who comes first in what is returned. */
  async _loadLed(ctx, federation) {
    const caller = this._caller(ctx);
    const id = bytes32(federation);
    const state = await this._get(ctx, `federation:${id}`);
    await this._requireLeader(ctx, id, state, caller);
    if (!state) refuse("FederationUnknown", id);
    return [caller, id, state];
  }

  /** The caller's account; a certificate without one, or with that of nobody, calls nothing that asks who calls. */
  _caller(ctx) {
    const caller = this._account(ctx);
    if (caller === NOBODY) refuse("AccessControlUnauthorizedAccount", NOBODY);
    return caller;
  }

  _account(ctx) {
    return account(ctx.clientIdentity.getAttributeValue("pulseledger.account") ?? NOBODY);
  }

  /** The account of lib/succession.js on this channel, to which federations can be entrusted. */
  _keeper(ctx) {
    return this.#fixed?.keeper ?? domainOf(ctx.stub.getChannelID(), "SuccessionLedger").contract;
  }

  async _handOver(ctx, caller, federation, heir, event) {
    const [id, state] = await this._load(ctx, federation);
    if (caller === NOBODY || caller !== state.keeper) refuse("NotKeeper", id, caller);
    requireRunning(id, state);
    await this._requireApart(ctx, heir, "COORDINATOR_ROLE");
    this._serve(state, heir, state.round);
    await this._keep(ctx, id, state, event);
  }

  async _requireLeader(ctx, id, state, holder) {
    if (!state?.entrusted) {
      if (!(await this._hasRole(ctx, "COORDINATOR_ROLE", holder))) refuse("AccessControlUnauthorizedAccount", "COORDINATOR_ROLE");
    } else if (holder !== state.coordinator) {
      refuse("NotLeader", id, state.coordinator, holder);
    }
  }

  /** No account has two roles. Who is admin stands in certificates, so that can be seen of the caller alone. */
  async _requireApart(ctx, holder, role) {
    if (this._isAdmin(ctx) && holder === this._account(ctx)) refuse("RolesConflict", holder, "DEFAULT_ADMIN_ROLE", role);
    const held = (await this._get(ctx, `account:${holder}`)) ?? [];
    const other = held.find((one) => one !== role);
    if (other) refuse("RolesConflict", holder, other, role);
  }

  _isAdmin(ctx) {
    return ctx.clientIdentity.getAttributeValue("pulseledger.admin") === "true";
  }

  _requireAdmin(ctx) {
    if (!this._isAdmin(ctx)) refuse("AccessControlUnauthorizedAccount", "DEFAULT_ADMIN_ROLE");
  }

  async _hasRole(ctx, role, holder) {
    return ((await this._get(ctx, `account:${holder}`)) ?? []).includes(role);
  }

  async _requireRole(ctx, role) {
    const caller = this._caller(ctx);
    if (!(await this._hasRole(ctx, role, caller))) refuse("AccessControlUnauthorizedAccount", role);
    return caller;
  }

  async _requireNotPaused(ctx) {
    if (await this._get(ctx, "paused")) refuse("EnforcedPause");
  }

  _requireTime(ctx, deadline, earliest) {
    if (deadline !== 0n && deadline < earliest) refuse("DeadlinePassed", deadline, this._now(ctx));
  }

  async _open(ctx, state, deadline) {
    await this._requireNotPaused(ctx);
    this._requireTime(ctx, deadline, this._now(ctx) + 1n);
    if (deadline >> 40n) refuse("SafeCastOverflowedUintDowncast", 40n, deadline);
    Object.assign(state, { deadline, phase: "OPEN" });
  }

  _isOpen(ctx, state) {
    return state.phase === "OPEN" && (state.deadline === 0n || this._now(ctx) <= state.deadline);
  }

  _requireOpenNext(ctx, id, state, round) {
    requireNext(id, state, round);
    if (!this._isOpen(ctx, state)) refuse("RoundNotOpen", id, round);
  }

  _status(ctx, state, round) {
    const last = state.round;
    if (round === 0n || round > last) {
      if (round !== last + 1n) return "NONE";
      if (state.phase === "ABORTED") return "VOID";
      if (state.phase !== "OPEN") return "NONE";
      return this._isOpen(ctx, state) ? "OPEN" : "VOID";
    }
    if (state.voided.some(([first, end]) => first <= round && round <= end)) return "VOID";
    if (state.phase === "DISPUTED" && round === state.disputed) return "DISPUTED";
    return round <= state.finalized ? "FINAL" : "SEALED";
  }

  _serve(state, caller, round) {
    if (state.coordinator === caller) return;
    state.served[state.coordinator] = round;
    state.coordinator = caller;
    state.served[caller] = KEEP_CLOSED;
  }

  _requireDisputable(ctx, id, state, round) {
    const status = this._status(ctx, state, round);
    if (status !== "SEALED") refuse("RoundNotSealed", id, round, STATUS.indexOf(status));
    requireUndisputed(id, state);
  }

  /** Requires that the tree of a round holds a record with its signature. */
  _requireSealedIn(ctx, state, header, record, signature, proof) {
    const leaf = updateLeaf(record.schema, record.slot, records.updateDigest(this._domain(ctx), record), signature);
    if (!inTree(header.root, record.slot, leaf, state.slots, proof)) refuse("ProofInvalid", header.root, leaf);
  }

  _requireHeaders(ctx, id, state, headers) {
    const domain = this._domain(ctx);
    const first = records.headOf(domain, id, headers[0]);
    let last = first;
    let round = headers[0].round;
    for (const header of headers.slice(1)) {
      round += 1n;
      if (header.round !== round) refuse("RoundOutOfOrder", id, round, header.round);
      if (header.previousHead !== last) refuse("HeadMismatch", id, round - 1n, last, header.previousHead);
      last = records.headOf(domain, id, header);
    }
    if (round > state.round || state.round - round >= RING) refuse("HeadNotKept", id, round);
    requireHead(id, state, round, last);
    return first;
  }

  async _promised(ctx, state, receipt, parentModel, signature) {
    const domain = this._domain(ctx);
    if (receipt.leaf !== ZERO) {
      const digest = records.receiptDigest(domain, receipt);
      const who = signer(digest, signature);
      const known = !state.entrusted && (await this._hasRole(ctx, "COORDINATOR_ROLE", who));
      if (!known && (state.served[who] ?? 0n) < receipt.round) {
        refuse("SignatureInvalid", who, digest);
      }
      return receipt.leaf;
    }
    const kept = await this._get(ctx, submissionKey(receipt.federation, receipt.round, parentModel, receipt.slot));
    if (!kept) return ZERO;
    if (kept.refused) {
      const digest = records.availabilityDigest(domain, receipt, kept.leaf);
      const who = signer(digest, signature);
      if (!(await this._hasRole(ctx, "AUDITOR_ROLE", who))) refuse("SignatureInvalid", who, digest);
    }
    return kept.leaf;
  }

  async _requireHospital(ctx, id, state, slot, holder, organisation, proof) {
    const entry = await this._get(ctx, `hospital:${id}:${slot}`);
    const status = entry?.status ?? "NONE";
    const listed = () => state !== undefined && inTree(state.registryRoot, slot, hospitalLeaf(slot, holder, organisation), state.slots, proof);
    const right =
      status === "ACTIVE" ? holder === entry.account && organisation === entry.organisation : status === "NONE" && listed();
    if (!right) refuse("NotHospital", id, slot, holder);
  }
}

module.exports = { RoundLedger, domainOf };
