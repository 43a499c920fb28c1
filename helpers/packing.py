"""Best-fit decreasing: pieces of text into as few blocks as it finds, many pieces of one size at a time."""

import heapq

import numpy as np


def best_fit_decreasing(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """The number of the bin of each item, bins being numbered in the order in which they are opened.

    The largest items come first; each goes into the bin that it leaves least room in, a new one where it fits into none (Johnson,
    1973: never more than 11/9 of the best possible number of bins, and 4 more). Sizes are whole numbers from 1 to `capacity`, so
    items of one size are dealt with together: what a step costs does not depend on how many they are.
    """
    order = np.argsort(-sizes, kind="stable")
    bin_of = np.empty(len(sizes), np.int64)
    rooms = _Rooms(capacity)
    place = 0
    for size, count in zip(*(part[::-1] for part in np.unique(sizes, return_counts=True)), strict=True):
        while count:
            bins, each = rooms.take(int(size), int(count))
            items = order[place : place + len(bins) * each]
            bin_of[items] = np.repeat(bins, each)
            place += len(items)
            count -= len(items)
    return bin_of


class _Rooms:
    """The open bins, by the room that is left in them."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.opened = capacity, 0
        self.bins: dict[int, list[np.ndarray]] = {}
        self.present = 0  # bit r is set where there are bins with room r

    def take(self, size: int, count: int) -> tuple[np.ndarray, int]:
        """Bins that take the same number of items of `size` each, at most `count` in all: the fullest that have room, else new ones."""
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


def dissolve_emptiest(sizes: np.ndarray, bin_of: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """The same bins without the emptiest, whose items are cut to fit into the room of others: sizes and bins of the items then.

    Even the best packing of whole items leaves room, for items of more than half the capacity need a bin each. Few items are cut:
    only one bin in a hundred is looked at, and no part of an item is shorter than an eighth of the capacity.
    """
    room = capacity - np.bincount(bin_of, weights=sizes).astype(np.int64)
    shortest = max(1, capacity // 8)
    roomy = sorted((-int(room[b]), int(b)) for b in np.flatnonzero(room >= shortest))  # the roomiest first
    parts: dict[int, list[tuple[int, int]]] = {}  # of an item that is moved: sizes and bins
    filled: set[int] = set()  # bins that have taken parts, and stay
    for _, emptiest in roomy[: max(1, len(room) // 100)]:
        if emptiest in filled:
            continue
        others = sorted(entry for entry in roomy if entry[1] != emptiest)
        moved = {i: _spread(int(sizes[i]), others, shortest) for i in np.flatnonzero(bin_of == emptiest).tolist()}
        if all(moved.values()):
            parts |= moved
            roomy = others
            filled |= {number for spread in moved.values() for _, number in spread}
    counts = np.ones(len(sizes), np.int64)
    counts[list(parts)] = [len(spread) for spread in parts.values()]
    first = np.cumsum(counts) - counts
    sizes, bin_of = np.repeat(sizes, counts), np.repeat(bin_of, counts)
    for item, spread in parts.items():
        where = slice(first[item], first[item] + len(spread))
        sizes[where], bin_of[where] = zip(*spread, strict=True)
    return sizes, np.unique(bin_of, return_inverse=True)[1]


def _spread(size: int, roomy: list[tuple[int, int]], shortest: int) -> list[tuple[int, int]]:
    """An item cut to fit into the roomiest bins, which are changed: sizes and bins of its parts; none where it does not fit."""
    spread: list[tuple[int, int]] = []
    while size:
        if not roomy:
            return []
        room, number = -roomy[0][0], roomy[0][1]
        part = size if size <= room else min(room, size - shortest)
        if part < min(shortest, size):
            return []
        spread.append((part, number))
        heapq.heapreplace(roomy, (part - room, number)) if part < room else heapq.heappop(roomy)
        size -= part
    return spread
