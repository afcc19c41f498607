"""CSV tables that people write: nothing in them is guessed, moved or left out."""

import csv
import warnings
from collections.abc import Collection
from pathlib import Path

import pandas as pd

_TOO_LONG = "rows with more values than the header has columns"


def text_table(path: Path, known: Collection[str]) -> pd.DataFrame:
    """Return a table whose values stay text: a class called 01 or NA is no number, nor missing.

    Args:
        path: of the table.
        known: columns that are read, of which there must not be two.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is no table, or rows are longer than the header.
    """
    with path.open("rb") as file:
        # The end of a text, for pandas.
        if any(b"\0" in piece for piece in iter(lambda: file.read(1 << 20), b"")):
            raise ValueError("a byte of 0, which no text has")
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        names, first = next(reader, []), next(reader, [])
    # pandas would give the second one another name.
    twice = sorted(name for name in known if names.count(name) > 1)
    if twice:
        raise ValueError(f"more than one column {', '.join(twice)}")
    if len(first) > len(names):  # if all rows end in a comma, pandas 2 says nothing
        raise ValueError(_TOO_LONG)
    with warnings.catch_warnings():
        # Of rows longer than the header pandas would take the first value for an index, or with
        # `index_col` drop the last.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
        except pd.errors.ParserWarning as warning:
            raise ValueError(_TOO_LONG) from warning
