"""Best-fit decreasing: packs pieces of text into few blocks, all pieces of one size at once."""

import numpy as np


def best_fit_decreasing(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """Assign items to bins: the largest first, each to the fullest bin that still has room.

    The method is Johnson's (1973): never more than 11/9 of the fewest possible bins, plus 4.
    Sizes are whole numbers, so all items of one size are placed together, and the time does not
    depend on how many there are.

    Args:
        sizes: Item sizes, from 1 to `capacity`: (items,), integer.
        capacity: The size of a bin.

    Returns:
        The bin of each item: (items,), int64. Bins are numbered in the order of their opening.

    >>> best_fit_decreasing(np.array([3, 7, 5, 2]), 8)
    array([1, 0, 1, 2])
    """
    order = np.argsort(-sizes, kind="stable")
    bin_of = np.empty(len(sizes), np.int64)
    rooms = _Rooms(capacity)
    place = 0
    distinct, counts = np.unique(sizes, return_counts=True)
    for size, count in zip(distinct[::-1].tolist(), counts[::-1].tolist(), strict=True):
        while count:
            bins, each = rooms.take(size, count)
            items = order[place : place + len(bins) * each]
            bin_of[items] = np.repeat(bins, each)
            place += len(items)
            count -= len(items)
    return bin_of


class _Rooms:
    """The open bins, grouped by the room that is left in them."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.opened = capacity, 0
        self.bins: dict[int, list[np.ndarray]] = {}
        self.present = 0  # bit r is set where there are bins with room r

    def take(self, size: int, count: int) -> tuple[np.ndarray, int]:
        """Bins for at most `count` items of `size`, and how many of them go into each bin.

        These are the fullest bins with enough room, or new ones if there are none.
        """
        fitting = self.present >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            bins = np.concatenate(self.bins.pop(room))
            self.present ^= 1 << room
        else:
            room = self.capacity
            bins = np.arange(self.opened, self.opened + max(1, count // (room // size)))
            self.opened += len(bins)
        each = min(room // size, count)
        used = min(len(bins), count // each)
        self._put(bins[used:], room)
        self._put(bins[:used], room - each * size)
        return bins[:used], each

    def _put(self, bins: np.ndarray, room: int) -> None:
        if len(bins) and room:
            self.bins.setdefault(room, []).append(bins)
            self.present |= 1 << room
