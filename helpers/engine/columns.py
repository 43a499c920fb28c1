"""The texts in columns: nested ones, lists, chat messages, several columns in a format string."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from helpers.engine.conversations import conversation, is_message
from helpers.errors import ParameterError, nearest

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

_FIELD = re.compile(r"\{([^{}]+)\}")


class TextColumn:
    """Where the text of examples lies: a column, a nested one, or several in a format string.

    `rows` are the examples with only the columns that are needed, as Arrow tables.
    """

    def __init__(self, examples: "Dataset", text_column: str):
        known = examples.flatten().column_names
        names = [] if text_column in known else _FIELD.findall(text_column)
        self.text_column, self._outer = text_column, {}
        for name in names or [text_column]:
            if name not in known:
                needed = _no_column(name, text_column, known)
                raise ParameterError("text_column", text_column, needed)
            outer = (c for c in examples.column_names if f"{name}.".startswith(f"{c}."))
            self._outer[name] = max(outer, key=len)
        self.rows = examples.select_columns(sorted(set(self._outer.values()))).with_format("arrow")

    def texts(
        self, table: "pa.Table", tokenizer: "PreTrainedTokenizerBase | None" = None
    ) -> list[str]:
        """The texts of some of the rows.

        `Dataset.flatten` would do, but loses nested columns of data sets that
        `concatenate_datasets` has made (datasets 5.2).
        """
        import pyarrow as pa
        import pyarrow.compute as pc
        from datasets import Dataset

        columns = {}
        for name, outer in self._outer.items():
            columns[name] = table[outer]
            for inner in name.removeprefix(outer).split(".")[1:]:
                columns[name] = pc.struct_field(columns[name], inner)
        rows = Dataset(pa.table(columns), fingerprint="some rows")[:]
        return _join(rows, self.text_column, tokenizer)

    def batch_size(self, size: int) -> int:
        """How many rows have about `size` bytes, at most 10,000."""
        data = self.rows.data
        return int(max(1, min(10_000, size * data.num_rows // max(1, data.nbytes))))


def _no_column(name: str, text_column: str, known: list[str]) -> str:
    """What to say of a missing column; a CSV file without a header has whole texts as names."""
    cut = [column if len(column) <= 60 else f"{column[:60]}…" for column in known]
    needed = f"the columns are {', '.join(cut[:50])}" + ("…" if len(cut) > 50 else "")
    if cut != known:
        needed += " (does the first line of the file name them?)"
    if "nearest" in (hint := nearest(name, known)):
        needed = f"{hint}, {needed}"
    return needed if name == text_column else f"there is no column {name!r}, {needed}"


def _join(
    columns: Mapping[str, list], text_column: str, tokenizer: "PreTrainedTokenizerBase | None"
) -> list[str]:
    """The texts that the values of columns make."""
    parts = {
        name: [_text(value, text_column, tokenizer) for value in values]
        for name, values in columns.items()
    }
    if text_column in parts:
        return parts[text_column]
    rows = (dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True))
    return [_FIELD.sub(lambda field, row=row: row[field[1]], text_column) for row in rows]


def _text(value: object, text_column: str, tokenizer: "PreTrainedTokenizerBase | None") -> str:
    """The text of one value: a string, a list of strings, or a conversation."""
    if isinstance(value, str) or value is None:
        return value or ""
    parts = value if isinstance(value, list) else [value]
    if isinstance(value, list) and all(part is None or isinstance(part, str) for part in parts):
        return " ".join(filter(None, parts))
    if isinstance(value, list) and all(map(is_message, parts)):
        return conversation(value, text_column, tokenizer)
    kind = type(next((part for part in parts if part is not None), None)).__name__
    needed = f"it holds {kind}, choose a column of texts or of lists of texts"
    raise ParameterError("text_column", text_column, needed)
