"""Best-fit decreasing against a slow search of the same."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.packing import best_fit_decreasing

MANY = settings(max_examples=4 * settings.default.max_examples)


def slow_best_fit_decreasing(sizes, capacity):
    """The room left in each bin, in the order in which they are opened."""
    rooms = []
    for size in sorted(sizes, reverse=True):
        fitting = [(room, number) for number, room in enumerate(rooms) if room >= size]
        if fitting:
            rooms[min(fitting)[1]] -= size
        else:
            rooms.append(capacity - size)
    return rooms


CASES = st.integers(2, 40).flatmap(
    lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c), max_size=60))
)


@MANY
@given(CASES)
@example(
    (19, [9, 9, 9, 9, 5, 5, 5])
)  # of two bins with the same room, one is filled before the other
@example((20, [10, 10, 14, 14, 3, 3]))
def test_best_fit_decreasing_equals_the_slow_oracle(case):
    capacity, sizes = case
    bins = best_fit_decreasing(np.array(sizes, np.int64), capacity)
    fill = [
        sum(s for s, b in zip(sizes, bins, strict=True) if b == number)
        for number in range(max(bins, default=-1) + 1)
    ]
    assert sorted(capacity - f for f in fill) == sorted(slow_best_fit_decreasing(sizes, capacity))
