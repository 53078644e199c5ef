"""The tree of nodes: who stands above whom, and what travels where. Pure functions.

What a node sends up is the sum of what it has been sent, in the integers of the mean (64 bits an entry; see `aggregation/mean.py`), so that
the root has the same sum, bit for bit, whatever the tree. The model travels down in 32 bits an entry. A node sends when all below it
that are in the round have sent; a level's links are all alike, so a level adds one time up and one time down to a round.
"""

from collections.abc import Collection, Iterable, Sequence

from engine.levels.config import LevelConfig

UP, DOWN = 64, 32  # bits of an entry


def above(hospitals: int, levels: Sequence[LevelConfig]) -> list[tuple[int, ...]]:
    """Of each hospital the node of each level, from the edges up.

    >>> above(5, (LevelConfig(nodes=2), LevelConfig(nodes=1)))
    [(0, 0), (0, 0), (0, 0), (1, 0), (1, 0)]
    """
    found = []
    for hospital in range(hospitals):
        place, below, path = hospital, hospitals, list[int]()
        for level in levels:
            place, below = place * level.nodes // below, level.nodes
            path.append(place)
        found.append(tuple(path))
    return found


def members(edge_of: Sequence[int], hospitals: Collection[int], edges: int) -> tuple[tuple[int, ...], ...]:
    """Of these hospitals those at each edge, ascending.

    >>> members([0, 0, 1, 1, 1], [4, 0, 2], 2)
    ((0,), (2, 4))
    """
    return tuple(tuple(h for h in sorted(hospitals) if edge_of[h] == edge) for edge in range(edges))


def seconds(levels: Iterable[LevelConfig], parameters: int) -> list[float]:
    """What each level adds to a round: the model comes down before the work, the sum goes up after it."""
    return [parameters * DOWN / level.downlink + parameters * UP / level.uplink for level in levels]


def sent(paths: Sequence[tuple[int, ...]], rounds: Iterable[Collection[int]], parameters: int) -> list[int]:
    """Bytes that each level sends up, by who came in, round by round."""
    counts = [0] * len(paths[0])
    for arrived in rounds:
        for level in range(len(counts)):
            counts[level] += len({paths[hospital][level] for hospital in arrived})
    return [count * parameters * UP // 8 for count in counts]
