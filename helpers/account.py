"""The account of chunking: where every token went."""

from dataclasses import dataclass, fields


@dataclass
class Account:
    """Where every token went: `tokens_in + separators == tokens_kept + tokens_dropped`, always.

    `dropped_remainder` are the tokens at the end that do not fill a block, where they are to be dropped; `dropped_single` those that
    are alone in their block, so that there is nothing to predict. `tokens_repeated` stand in two blocks, because blocks overlap.
    `tokens_scored` are the targets of the loss. `padding` is what is missing to `blocks` full blocks.
    """

    block_size: int
    documents: int = 0
    tokens_in: int = 0
    separators: int = 0
    tokens_kept: int = 0
    dropped_remainder: int = 0
    dropped_single: int = 0
    tokens_repeated: int = 0
    tokens_scored: int = 0
    blocks: int = 0
    full_blocks: int = 0
    documents_cut: int = 0

    @property
    def tokens_dropped(self) -> int:
        """The tokens that are in no block."""
        return self.dropped_remainder + self.dropped_single

    @property
    def padding(self) -> int:
        """The places that no token fills, each block having `block_size` places."""
        return self.blocks * self.block_size - self.tokens_kept - self.tokens_repeated

    @property
    def places_filled(self) -> float:
        """The share of the places that a token fills."""
        return 1 - self.padding / (self.blocks * self.block_size) if self.blocks else 0.0

    def numbers(self) -> dict[str, int | float]:
        """All of it by name."""
        names = [f.name for f in fields(self)] + ["tokens_dropped", "padding", "places_filled"]
        return {name: getattr(self, name) for name in names}


def totals(accounts: dict[str, Account]) -> dict[str, int | float]:
    """The numbers of a run over all splits: here `tokens_in` are with the separators, so that it is kept + dropped."""
    every = [account.numbers() for account in accounts.values()]
    names = ["documents", "documents_cut", "separators", "tokens_kept", "tokens_dropped", "tokens_scored", "padding"]
    sums = {name: sum(numbers[name] for numbers in every) for name in names}
    places = sum(numbers["blocks"] * numbers["block_size"] for numbers in every)
    sums |= {
        "tokens_in": sum(n["tokens_in"] + n["separators"] for n in every),
        "places_filled": 1 - sums["padding"] / places,
    }
    return sums | {f"blocks_{name}": account.blocks for name, account in accounts.items()}
