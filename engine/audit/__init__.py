"""Recompute everything that a ledger claims, from a run's folder, from its bundle alone, or from a study's own journal.

Nothing here is shared with what writes the ledger, but for the page of the format (`engine.ledger.format`), the chain on
which recorded transactions are executed again (`engine.ledger.chain`), and plain JSON. Hashes, trees, typed signatures,
the arithmetic of a round, reputations and rewards are written a second time; quotas and decisions on synthetic beats are
decided a second time by the contract itself.

What is checked, in this order, stands in `run.py` for a run and in `study.py` for a study.
"""
