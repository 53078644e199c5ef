"""The ledger: what a federation did, signed by its hospitals, sealed round by round, and open to recomputation.

    format     the page that writer and auditor share: tables, files, purposes, numbers
    typed      records with their Solidity types: digests, JSON, checks
    trees      the tree of a round, the tree of verdicts and rewards, the annex
    signing    keys and signatures
    signer     what a hospital checks before it signs; light enough for a hospital process
    keystore   keys that are drawn, in a folder
    store      the journal as a file: everything is on disk before it is sent
    chain      where the contracts live: in this process or behind an RPC node
    delivery   how a transaction gets onto a chain that waits, forgets or reorders
    book       journal, chain and delivery of one folder
    subjects   updates, rounds, registry, disputes, reputation, synthetic, policy, study: one file each, on a book
    run        the subjects of one run, joined: `RunLedger.append(entry) -> Seal`
    base       the ledger as the loop sees it, and the one that keeps nothing
    observer   the ledger of a run as a part of the loop
    archive    the vectors behind the hashes
    bundle     one file from which everything can be recomputed
    proofs     what a slot of a round holds, as a file

Nothing is imported here, so that a hospital can import `signer` without the rest.
"""
