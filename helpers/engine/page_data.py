"""What the pages of blocks and of documents show, as few numbers; `pages/` has their scripts."""

from collections import Counter
from collections.abc import Callable
from itertools import chain, product
from typing import TYPE_CHECKING

import numpy as np

from helpers.engine.blocks import STRATEGIES

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MOST = 2048  # tokens of the blocks that are shown for a size and a strategy
SHOWN = 1536  # tokens of all documents that are shown
SIZES = (16, 32, 64, 128, 256, 512, 1024)


def frequent_first(rows: list[list[int]]) -> list[int]:
    """The distinct token ids in some rows, the most frequent first; their places replace them."""
    distinct = [token for token, _ in Counter(chain(*rows)).most_common()]
    place = {token: number for number, token in enumerate(distinct)}
    for row in rows:
        row[:] = [place[token] for token in row]
    return distinct


def block_data(
    chunk: Callable,
    tokenized: "Dataset",
    tokenizer: "PreTrainedTokenizerBase",
    context: int,
    start: tuple[int, str],
) -> dict[str, object]:
    """For the page `blocks`: documents cut in five sizes and by each strategy.

    Args:
        chunk: `helpers.chunking.chunk`.
        start: The block size and the strategy that are shown first.
    """
    places, ids, starts = numbered(tokenized, tokenizer.eos_token_id)
    ways = []
    for size, strategy in product(sizes_near(start[0], context), STRATEGIES):
        blocks, account = chunk(places, size, None, strategy)
        way = {"size": size, "strategy": strategy, "blocks": account.blocks}
        way |= {"filled": round(account.places_filled, 4), "cut": account.documents_cut}
        ways.append(way | {"rows": block_rows(blocks, starts)})
    tokens = keep_shown(ways, ids)
    distinct = frequent_first([tokens])
    data = {"start": start, "ways": ways, "tokens": tokens, "ids": distinct}
    words = [tokenizer.decode([token]) for token in distinct]
    return data | {"words": words, "end": tokenizer.eos_token_id}


def sizes_near(block_size: int, context: int) -> list[int]:
    """At most five block sizes: this one, and those of `SIZES` up to the context next to it."""
    sizes = {block_size, *(size for size in SIZES if size <= context)}
    return sorted(sorted(sizes, key=lambda size: abs(np.log(size / block_size)))[:5])


def numbered(tokenized: "Dataset", end: int | None) -> tuple["Dataset", np.ndarray, np.ndarray]:
    """Documents whose ids are the places of their tokens in one long row, ends of text included.

    How they are cut shows where each place goes: the ids make no difference to it.

    Returns:
        The documents, the ids of the row, and where each document starts in it.
    """
    import pyarrow as pa
    from datasets import Dataset

    rows = [ids if end is None else [*ids, end] for ids in tokenized["input_ids"][:]]
    offsets = np.cumsum([0, *map(len, rows)])
    places = pa.LargeListArray.from_arrays(offsets, np.arange(offsets[-1], dtype=np.int32))
    ids = np.concatenate([np.asarray(row, np.int32) for row in rows])
    return Dataset(pa.table({"input_ids": places})), ids, offsets[:-1]


def block_rows(blocks: "Dataset", starts: np.ndarray) -> list[list[int]]:
    """The parts of documents in each of the first blocks, which have `MOST` tokens or one block.

    Args:
        blocks: Of `numbered` documents, which start at `starts`.

    Returns:
        For each part of a block four numbers: its first place, its length, the number of its
        document, and 1 if the document begins there.
    """
    rows, room = [], MOST
    for block in blocks:
        places = block["input_ids"][:MOST]
        if len(places) > room:
            break
        room -= len(places)
        borders = np.append(
            np.flatnonzero(np.array(block["position_ids"][:MOST]) == 0), len(places)
        )
        row = []
        for first, until in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
            document = int(np.searchsorted(starts, places[first], side="right")) - 1
            begins = int(places[first] == starts[document])
            row += [places[first], until - first, document, begins]
        rows.append(row)
    return rows


def keep_shown(ways: list[dict[str, object]], ids: np.ndarray) -> list[int]:
    """The ids of the tokens in the rows of some ways to cut; places are counted among them."""
    shown = np.zeros(len(ids), bool)
    parts = [(row, i) for way in ways for row in way["rows"] for i in range(0, len(row), 4)]
    for row, i in parts:
        shown[row[i] : row[i] + row[i + 1]] = True
    place = np.cumsum(shown) - 1
    for row, i in parts:
        row[i] = int(place[row[i]])
    return ids[shown].tolist()


def document_data(
    models: dict[str, "PreTrainedModel"],
    tokenizer: "PreTrainedTokenizerBase",
    prefix: int,
    documents: list[list[int]],
    scores: list[object],
) -> dict[str, object]:
    """For the page `documents`: the first tokens of some documents, and what models say of them.

    The losses are of whole documents, in nats per token; the nats of single tokens are in
    hundredths. At each place come the five likeliest tokens, and their probabilities in percent.

    Args:
        prefix: The token before each document.
        documents: Token ids; of few documents more is shown than of many.
        scores: Of the documents under each model, from `helpers.perplexity.score_documents`.
    """
    longest, rows = min(scores[0].context, max(1, SHOWN // len(documents))), []
    for number, ids in enumerate(documents):
        values = [score.document(number) for score in scores]
        row = {"count": len(ids), "loss": [round(float(one.mean()), 4) for one in values]}
        row["tokens"] = ids[:longest]
        row["nats"] = [(100 * one[:longest]).round().astype(int).tolist() for one in values]
        best = [likeliest(model, [prefix, *row["tokens"][:-1]]) for model in models.values()]
        row["likeliest"], row["shares"] = map(list, zip(*best, strict=True))
        rows.append(row)
    every = [one for row in rows for one in (row["tokens"], *row["likeliest"])]
    words = [tokenizer.decode([token]) for token in frequent_first(every)]
    return {"models": list(models), "words": words, "documents": rows}


def likeliest(model: "PreTrainedModel", seen: list[int]) -> tuple[list[int], list[int]]:
    """The five likeliest tokens after each of some tokens, and how many percent each has."""
    import torch

    with torch.inference_mode():
        ids = torch.tensor([seen], device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0].float()
    shares, tokens = logits.softmax(-1).topk(5)
    return tokens.flatten().tolist(), (100 * shares).round().int().flatten().tolist()
