"""Synthetic beats: generators (`generators.py`, `timegan.py`), training-side balancing (`balance.py`), and evidence of
quality and privacy (`quality.py`, its picture in `picture.py`).

Pure functions over the arrays of one hospital; nothing here knows the ledger or where a hospital lives.
"""

from engine.synthesis.generators import Synthetic, generate, minimum_real

__all__ = ["Synthetic", "generate", "minimum_real"]
