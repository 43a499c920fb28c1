"""Text to token ids, in parallel, with nothing added, cut or padded."""

import os
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers.columns import rendered, text_of

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def tokenize(
    examples: "Dataset", text_column: str, tokenizer: "PreTrainedTokenizerBase"
) -> "Dataset":
    """A data set with one column, `input_ids` (int32), and one row for each example.

    The guide's `Dataset.map(tokenizer, batched=True, num_proc=4)` copies texts to other processes and ids back as 64-bit
    numbers beside an attention mask that is all ones. Here `map` stays in this process, because the Rust tokenizer runs on all
    cores by itself; it takes ids and nothing else, and does not care how long a text is. The result is kept in the
    cache of `datasets`, under a hash of the texts and of the tokenizer's own JSON, which unlike a hash of the object
    does not change when it is used. No special token is added: what stands between documents is chunking's business.
    Raises ParameterError where `text_column` is not there or holds no text.
    """
    import datasets
    from datasets.fingerprint import Hasher

    if "TOKENIZERS_PARALLELISM" not in os.environ:
        os.unsetenv(
            "TOKENIZERS_PARALLELISM"
        )  # where map has used processes, it stays "false" for all but Python (datasets 5.2)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()

    def encode(batch: dict[str, list]) -> "pa.Table":
        import pyarrow as pa

        encodings = backend.encode_batch_fast(
            rendered(batch, text_column, tokenizer), add_special_tokens=False
        )
        offsets = np.cumsum([0] + [len(e) for e in encodings])
        values = np.fromiter(
            chain.from_iterable(e.ids for e in encodings), np.int32, count=int(offsets[-1])
        )
        return pa.table(
            {"input_ids": pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))}
        )

    features = datasets.Features({"input_ids": datasets.LargeList(datasets.Value("int32"))})
    source = text_of(examples, text_column)
    if not len(source):  # map would not even call its function
        return datasets.Dataset.from_dict({"input_ids": []}, features)
    key = Hasher.hash((source._fingerprint, text_column, backend.to_str(), tokenizer.chat_template))
    path = Path(datasets.config.HF_DATASETS_CACHE) / "tokenized" / f"{key}.arrow"
    path.parent.mkdir(parents=True, exist_ok=True)
    return source.map(
        encode,
        batched=True,
        batch_size=10_000,  # at the end of a batch, cores wait for each other
        remove_columns=source.column_names,
        features=features,
        cache_file_name=str(path),
        new_fingerprint=key,
        desc="tokenizing",
    )
