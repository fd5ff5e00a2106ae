"""The generator of parameters that the tests of attention use."""

from itertools import combinations, product

import pytest
from pairwise import all_pairs


@pytest.mark.parametrize(
    "axes, most",
    [(((1, 2, 3), "ab"), 6), (((1, 2), "ab", (None, 0.5)), 4), ((range(6), range(5), range(3), range(2)), 36)],
    ids=["two axes", "three axes", "four axes"],
)
def test_every_pair_of_values_meets(axes: tuple, most: int):
    selected = all_pairs(*axes)
    for first, second in combinations(range(len(axes)), 2):
        met = {(combination[first], combination[second]) for combination in selected}
        assert met == set(product(axes[first], axes[second]))
    assert len(selected) <= most and len(selected) < len(list(product(*axes))) + (len(axes) == 2)


def test_the_same_each_time():
    assert all_pairs(range(4), range(3), range(3)) == all_pairs(range(4), range(3), range(3))
