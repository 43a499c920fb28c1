"""Dealing out groups of examples to the parts of a split."""

from collections.abc import Mapping, Sequence

import numpy as np


def deal(
    sizes: np.ndarray, strata: Sequence[str], shares: Mapping[str, float], seed: int
) -> np.ndarray:
    """The part of each group, dealt out whole in a seeded order.

    Within a part, the strata have the proportions that they have in the whole, as far as groups
    allow. No part gets more than a tenth above its share, nor less than one group that fits.

    Args:
        sizes: the examples in each group.
        strata: a label of each group.
        shares: of all examples, for each part; they are served in this order, and what a part gets
            does not depend on later ones.
        seed: of the order.

    Returns:
        The names of the parts, and `train` for what is left: (groups,).
    """
    part_of = np.full(len(sizes), "train", object)
    members: dict[str, list[int]] = {label: [] for label in sorted(set(strata))}
    for i in np.random.default_rng(seed).permutation(len(sizes)):
        members[strata[i]].append(i)
    for part, share in shares.items():
        taken, wanted = 0, 0.0
        for groups in members.values():
            wanted += share * sizes[groups].sum()
            target = max(1, round(wanted))
            for i in groups:
                free = part_of[i] == "train"
                if free and taken < target and taken + sizes[i] <= 1.1 * target:
                    part_of[i] = part
                    taken += sizes[i]
    return part_of
