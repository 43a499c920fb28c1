"""Text to token ids, in parallel, with nothing added, cut or padded."""

import os
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers.engine.columns import TextColumn
from helpers.engine.progress import progress_of_map

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def tokenize(
    examples: "Dataset", text_column: str, tokenizer: "PreTrainedTokenizerBase"
) -> "Dataset":
    """The token ids of each example, whatever its length.

    `Dataset.map(tokenizer, batched=True, num_proc=4)`, as guides have it, copies texts to other
    processes, and ids back as 64-bit numbers beside an attention mask of ones. Here `map` stays in
    this process, since the Rust tokenizer uses all cores by itself, and takes the ids alone. The
    result is cached by `datasets` under a hash of the texts and of the tokenizer's JSON, which
    unlike a hash of the object does not change with use. No special tokens are added: chunking
    separates the documents.

    Args:
        examples: the data set.
        text_column: see `helpers.data.Texts`.
        tokenizer: a fast one.

    Returns:
        A data set with the one column `input_ids` (int32), a row for each example.

    Raises:
        ParameterError: where `text_column` is not there or holds no text.
    """
    import datasets
    from datasets.fingerprint import Hasher

    if "TOKENIZERS_PARALLELISM" not in os.environ:
        # a map with processes sets it to "false", and resets it for Python only (datasets 5.2)
        os.unsetenv("TOKENIZERS_PARALLELISM")
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()

    column = TextColumn(examples, text_column)

    def encode(batch: "pa.Table") -> "pa.Table":
        import pyarrow as pa

        batch_texts = column.texts(batch, tokenizer)
        encodings = backend.encode_batch_fast(batch_texts, add_special_tokens=False)
        offsets = np.cumsum([0] + [len(e) for e in encodings])
        ids = np.fromiter(chain.from_iterable(e.ids for e in encodings), np.int32, offsets[-1])
        bar.advance(len(batch))
        lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(ids))
        return pa.table({"input_ids": lists})

    features = datasets.Features({"input_ids": datasets.LargeList(datasets.Value("int32"))})
    if not len(examples):  # map would not call its function
        return datasets.Dataset.from_dict({"input_ids": []}, features)
    made_from = (examples._fingerprint, text_column, backend.to_str(), tokenizer.chat_template)
    key = Hasher.hash(made_from)
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "tokenized"
    cache.mkdir(parents=True, exist_ok=True)
    with progress_of_map(len(examples), "documents tokenized") as bar:
        tokenized = column.rows.map(
            encode,
            batched=True,
            batch_size=column.batch_size(1 << 20),  # an encoding takes 25 times its text
            remove_columns=column.rows.column_names,
            features=features,
            cache_file_name=str(cache / f"{key}.arrow"),
            new_fingerprint=key,
        )
    return tokenized.with_format(None)
