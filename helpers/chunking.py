"""Token ids to blocks for training, with an account of every token.

Arrow stores the ids of all documents end to end in one buffer, so a block is a pair of offsets into
it, and no token is handled in Python. The text is processed in windows of about two million tokens:
memory use does not grow with the text, and the blocks do not depend on how the text is batched.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.engine.arrow import name_splits, write_split
from helpers.engine.blocks import Chunker, Settings
from helpers.engine.progress import Progress
from helpers.errors import DataError
from helpers.packing import best_fit_decreasing

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict


@dataclass
class Account:
    """Where every token went: `tokens_in + separators == tokens_kept + tokens_dropped`, always.

    `dropped_remainder` counts the tokens of a last block that is dropped, `dropped_single` those
    that are alone in their block, so that there is nothing to predict. `tokens_repeated` are in two
    overlapping blocks. `tokens_scored` are the targets of the loss.
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
        """The places without a token, each block having `block_size` places."""
        return self.blocks * self.block_size - self.tokens_kept - self.tokens_repeated

    @property
    def places_filled(self) -> float:
        """The share of the places that hold a token."""
        return 1 - self.padding / (self.blocks * self.block_size) if self.blocks else 0.0

    def numbers(self) -> dict[str, int | float]:
        """All counts by name."""
        names = [f.name for f in fields(self)] + ["tokens_dropped", "padding", "places_filled"]
        return {name: getattr(self, name) for name in names}


def totals(accounts: dict[str, Account]) -> dict[str, int | float]:
    """The counts of all splits together; `tokens_in` includes the separators here."""
    every = [account.numbers() for account in accounts.values()]
    names = ["documents", "documents_cut", "separators", "tokens_kept", "tokens_dropped"]
    names += ["tokens_scored", "padding"]
    sums = {name: sum(numbers[name] for numbers in every) for name in names}
    places = sum(numbers["blocks"] * numbers["block_size"] for numbers in every)
    sums["tokens_in"] = sum(n["tokens_in"] + n["separators"] for n in every)
    sums["places_filled"] = 1 - sums["padding"] / places
    return sums | {f"blocks_{name}": account.blocks for name, account in accounts.items()}


def chunk(
    tokenized: "Dataset | DatasetDict | IterableDataset | IterableDatasetDict",
    block_size: int,
    eos_token_id: int | None,
    strategy: str = "concat",
    *,
    remainder: str = "keep",
    overlap: int = 0,
    position_ids: bool = True,
    seed: int = 0,
    folder: Path | None = None,
) -> tuple[
    "Dataset | DatasetDict | IterableDataset | IterableDatasetDict", "Account | dict[str, Account]"
]:
    """Cut the column `input_ids` into blocks of at most `block_size` tokens.

    The documents `a b c`, `d e` and `f` in blocks of 5 tokens, with `|` for end-of-text:

        strategy      blocks                         position_ids
        "concat"      a b c | d   e | f |            0 1 2 3 0   0 1 0 1
        "pack"        a b c |     d e | f |          0 1 2 3     0 1 2 0 1
        "document"    a b c |     d e |     f |      0 1 2 3     0 1 2     0 1

    `position_ids` restart at 0 with each document and each block. From them transformers builds
    the mask that keeps attention inside a document, provided there is no `attention_mask` and no
    cache.

    Args:
        tokenized: Documents as token ids, one split or several; a stream gives a stream.
        block_size: Tokens per block, at least 2.
        eos_token_id: The token put after every document, or None for no token.
        strategy: `concat` lays documents end to end and cuts every `block_size` tokens. `pack` cuts
            long documents and packs the pieces by best-fit decreasing. `document` gives each
            document blocks of its own.
        remainder: What to do with a last, shorter block of `concat`: `keep` it, `pad` it with
            end-of-text that is not scored, or `drop` it.
        overlap: For `document`: how many tokens a further block of the same document repeats. They
            are not scored twice. Tokenizers call this the stride.
        position_ids: Whether blocks have them; without them, documents in a block see each other.
        seed: Seed of the order of packed blocks.
        folder: Where to write the blocks as they are made; None keeps them in memory.

    Returns:
        The blocks, and an account for each split. A block has `input_ids`, `position_ids`, and
        `labels` where some places must not be scored (`pad`, `overlap`). The account of a stream
        is filled in when the stream has been read to its end.

    Raises:
        ParameterError: for an invalid argument.
        DataError: if there is not enough text for a single block.

    >>> from datasets import Dataset
    >>> blocks, account = chunk(Dataset.from_dict({"input_ids": [[1, 2, 3], [4, 5]]}), 5, 0)
    >>> blocks["input_ids"][:], blocks["position_ids"][:]
    ([[1, 2, 3, 0, 4], [5, 0]], [[0, 1, 2, 3, 0], [0, 1]])
    >>> account.tokens_in, account.separators, account.tokens_kept
    (5, 2, 7)
    """
    settings = Settings(block_size, eos_token_id, strategy, remainder, overlap, position_ids, seed)
    if not isinstance(tokenized, dict):
        return _chunk_split("the data set", tokenized, settings, folder)
    done = {
        name: _chunk_split(f"the {name} split", part, settings, folder and folder / name)
        for name, part in tokenized.items()
    }
    if folder is not None:
        name_splits(folder, done)
    accounts = {name: account for name, (_, account) in done.items()}
    return type(tokenized)({name: blocks for name, (blocks, _) in done.items()}), accounts


def _chunk_split(
    name: str, tokenized: "Dataset | IterableDataset", settings: Settings, folder: Path | None
) -> tuple["Dataset | IterableDataset", Account]:
    """The blocks of one split and their account."""
    import pyarrow as pa
    from datasets import Dataset, IterableDataset
    from datasets.fingerprint import Hasher

    account = Account(settings.block_size)
    source = tokenized.select_columns("input_ids").with_format("arrow")

    def batches(columns: Iterable["pa.ChunkedArray"]) -> Iterator["pa.RecordBatch"]:
        chunker = Chunker(settings, best_fit_decreasing)
        yield from chunker.batches(columns)
        vars(account).update(vars(Account(settings.block_size, **chunker.counts)))
        _report(name, account)

    if isinstance(tokenized, IterableDataset):

        def rows() -> Iterator[dict[str, list[int]]]:
            for batch in batches(table["input_ids"] for table in source.iter(1000)):
                yield from batch.to_pylist()

        return IterableDataset.from_generator(rows), account

    def slices() -> Iterator["pa.ChunkedArray"]:
        with closing(Progress(len(source), "documents chunked")) as bar:
            for table in source.iter(10_000):
                yield table["input_ids"]
                bar.advance(len(table))

    if folder is not None:
        return write_split(folder, settings.schema, batches(slices())), account
    # without this fingerprint, datasets would hash every token
    fingerprint = Hasher.hash((tokenized._fingerprint, astuple(settings)))
    table = pa.Table.from_batches(batches(slices()), settings.schema)
    return Dataset(table, fingerprint=fingerprint), account


def _report(name: str, account: Account) -> None:
    """Print what was dropped if it is over 1 %; DataError if there is no block at all."""
    before, dropped = account.tokens_in + account.separators, account.tokens_dropped
    if not account.blocks:
        raise DataError(
            f"No block comes out of {name}: its {account.documents:,} documents have "
            f"{account.tokens_in:,} tokens, and a block of {account.block_size:,} needs more. "
            "Use more text or a smaller block_size."
        )
    if dropped > 0.01 * before:
        print(
            f"{dropped:,} of {before:,} tokens of {name} are dropped ({dropped / before:.1%}): "
            f"{account.dropped_remainder:,} of a remainder, "
            f"{account.dropped_single:,} alone in a block."
        )
