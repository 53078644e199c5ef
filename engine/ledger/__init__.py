"""The ledger: what a federation did, signed by its hospitals, sealed round by round, and open to recomputation.

    records    what is written down, as frozen data
    canonical  the one hash of a model, the one hash of a configuration, the one definition of the weighted mean
    signing    keys and signatures of hospitals; light enough for a hospital process
    merkle     the tree of a round and the chain of heads
    journal    the durable truth: everything is on disk before it is sent
    chain      where the contract lives: in this process or behind an RPC node
    ledger     joins the parts: `Ledger.append(entry) -> Seal`
    archive    the vectors behind the hashes
    audit      recomputes all of it from the folder of a run

Nothing is imported here, so that a hospital can import `signing` without the rest.
"""
