"""All pairs instead of the full product, for tests whose axes do not all act on each other."""

from collections.abc import Sequence
from itertools import combinations, product
from random import Random


def all_pairs(*axes: Sequence[object]) -> list[tuple[object, ...]]:
    """Few combinations of the axes' values such that any two values of different axes meet in one of them.

    Greedy, hence not the fewest: each combination is one of those with the most pairs that are still missing, drawn at
    random so that no value keeps to the same company, but the same for the same axes.
    """
    every = list(product(*(range(len(axis)) for axis in axes)))
    Random(0).shuffle(every)
    pairs = {indices: set(combinations(enumerate(indices), 2)) for indices in every}
    missing = set().union(*pairs.values())
    selected = []
    while missing:
        best = max(pairs, key=lambda indices: len(pairs[indices] & missing))
        missing -= pairs[best]
        selected.append(tuple(axis[index] for axis, index in zip(axes, best, strict=True)))
    return selected
