"""Text to token ids, in parallel, with nothing added, cut or padded."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def tokenize(documents: list[str], tokenizer: "PreTrainedTokenizerBase") -> "Dataset":
    """A data set with one column, `input_ids` (int32), and one row for each document.

    The guide's `Dataset.map(tokenizer, batched=True, num_proc=4)` copies texts to other processes and ids back as 64-bit
    numbers beside an attention mask that is all ones. The Rust tokenizer runs on all cores by itself, in one call, and has no
    opinion about how long a text may be. No special token is added: what stands between documents is chunking's business.
    """
    import pyarrow as pa
    from datasets import Dataset

    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(documents, add_special_tokens=False)
    lengths = np.array([len(e) for e in encodings], np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = np.fromiter((i for e in encodings for i in e.ids), np.int32, count=int(offsets[-1]))
    column = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
    return Dataset(pa.table({"input_ids": column}))
