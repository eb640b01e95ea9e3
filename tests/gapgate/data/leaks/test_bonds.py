"""Which near-duplicates stay together."""

from gapgate.data.leaks import bonds


def test_a_few_copies_stay_together_and_a_set_where_all_look_alike_is_not_one_group():
    copies = [(0, 1), (1, 2)]
    chain = [(row, row + 1) for row in range(100, 100 + bonds.MAX_ALIKE)]
    assert bonds._without_chains([*copies, *chain]) == copies
    assert bonds._without_chains(chain[1:]) == chain[1:]  # as many as are allowed
