"""Tables as raw rows: .csv and .tsv, whose cells are all text, and .parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt_jax.data.extra import extra
from gpt_jax.data.unpacked import (
    LARGEST_ROW,
    MOST_UNPACKED,
    check_unpacked,
    readable,
    size_of,
    text_blocks,
    unreadable,
)
from gpt_jax.data.values import keys_of, shown
from gpt_jax.errors import UserError

ROWS = 256  # of a parquet file that are held at a time


def read_separated(path: Path, separator: str) -> Iterator[tuple[str, Any]]:
    """Yields (FILE:LINE, row) of a table whose first line names the columns.

    A row with more or fewer cells than there are columns is the UserError that says so.

    Raises:
      UserError: if the file cannot be read, or its first line names no columns, or one twice.
    """
    csv.field_size_limit(LARGEST_ROW)
    reader = csv.reader(_lines(path), delimiter=separator, strict=True)
    try:
        names = next(reader, [])
        if not any(names) or len(set(names)) < len(names):
            raise UserError(
                f"{path}:1: the first line must name the columns, each once, but has "
                f"{keys_of(dict.fromkeys(names))}; write one in front."
            )
        before = reader.line_num
        for cells in reader:
            place, before = f"{path}:{before + 1}", reader.line_num
            if len(cells) == len(names):
                yield place, dict(zip(names, cells, strict=True))
            elif cells:  # an empty line has none
                yield (
                    place,
                    UserError(
                        f"this row has {len(cells)} cells, but there are {len(names)} columns"
                    ),
                )
    except csv.Error as error:
        raise UserError(
            f"{path}:{reader.line_num}: this is no table ({error}); mend the row."
        ) from error


def _lines(path: Path) -> Iterator[str]:
    """Lines with their ends, which `csv` needs to know where a cell has some."""
    rest = ""
    for block in text_blocks(path, plain_ends=False):
        *whole, rest = (rest + block).split("\n")
        yield from (f"{line}\n" for line in whole)
        if len(rest) > LARGEST_ROW:
            raise csv.Error(f"a line has more than {LARGEST_ROW // 2**20} MiB")
    if rest:
        yield rest


def read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    """Yields (FILE: row N, row) of a parquet file, without columns' empty cells.

    Raises:
      UserError: if pyarrow is missing or cannot read the file, or it unpacks to far too much.
    """
    pyarrow = extra("pyarrow", f"{path} is read")
    parquet = extra("pyarrow.parquet", f"{path} is read")
    with readable(path):
        size = size_of(path)
        try:
            # `open` first: pyarrow takes a name with a colon for an address.
            with open(path, "rb") as file:
                table = parquet.ParquetFile(file)
                groups = range(table.metadata.num_row_groups)
                said = sum(table.metadata.row_group(i).total_byte_size for i in groups)
                check_unpacked(path, said, MOST_UNPACKED * size)
                number, seen = 0, 0
                for batch in table.iter_batches(batch_size=ROWS):
                    for row in batch.to_pylist():
                        number += 1
                        seen += _characters(row)
                        check_unpacked(path, seen, MOST_UNPACKED * size)
                        yield f"{path}: row {number}", plain_row(row)
        except (pyarrow.ArrowException, OverflowError) as error:
            raise unreadable(path, error) from error


def _characters(value: Any) -> int:
    """How much text there is: what a dictionary of few texts unpacks to is known by this alone."""
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    if isinstance(value, list):
        return sum(map(_characters, value))
    return len(value) if isinstance(value, str | bytes) else 8


def plain_row(row: dict) -> Any:
    """A row of Arrow's as JSON would hold it: no empty cells, no bytes, no dates.

    Arrow has every key in every row; JSON leaves out what is not there.
    """
    try:
        return _plain(row, "")
    except UserError as error:
        return error


def _plain(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v, k) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_plain(v, key) for v in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            byte = value[error.start]
            raise UserError(f"byte {byte:#04x} of `{shown(key)}` is not UTF-8") from None
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return str(value)  # a date or a decimal, which no layout reads
