"""One federation of hospitals: everything that a single run needs.

Start reading at `engine/rounds.py` (the loop) and `engine/experiment.py` (where the parts are joined).
"""

__version__ = "0.1.0"
