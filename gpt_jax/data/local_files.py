"""Local files as raw rows: what lies in them, before anything is known of its layout."""

from __future__ import annotations

import codecs
import functools
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt_jax.data import tables
from gpt_jax.data.unpacked import LARGEST_ROW, lines, plain_name, size_of, text_blocks, unreadable
from gpt_jax.data.values import shown, text_of
from gpt_jax.errors import UserError

END_OF_TEXT = "<|endoftext|>"
DOCUMENT_CHARACTERS = 2000
LONGEST_DOCUMENT = 50_000  # characters of a paragraph that is still one document
LONGEST_WAIT = 2**20  # characters without a paragraph's end, after which they are cut at once

Located = tuple[str, Any]  # where a row stands, and the row, or the UserError that it is


def read_file(path: Path, kind: str) -> Iterator[Located]:
    """Yields (FILE:LINE, raw row) of a file; a row that is no JSON is the UserError that says so.

    Of every layout but .json no more than a block and a row is held at a time.

    Raises:
      UserError: if the file as a whole cannot be read.
    """
    name = plain_name(path)
    if name.endswith(".jsonl"):
        yield from json_lines(path)
    elif name.endswith(".json"):
        yield from _json_list(path)
    elif name.endswith((".csv", ".tsv")):
        yield from tables.read_separated(path, "\t" if name.endswith(".tsv") else ",")
    elif path.suffix == ".parquet":
        yield from tables.read_parquet(path)
    elif name.endswith(".txt") and kind in ("text", "prompts"):
        rows = _documents(path) if kind == "text" else _text_lines(path)
        yield from ((f"{path}:{line}", row) for line, row in rows if row.strip())
    else:
        txt = " or .txt" * (kind in ("text", "prompts"))
        raise UserError(
            f"{path}: {kind} are read from a .jsonl, .json, .parquet, .csv, .tsv{txt} file, "
            "plain or packed as .gz, .xz or .zst; rename or convert it."
        )


def fingerprint(path: Path) -> str:
    """A number for the bytes of a file; a UserError if there is none to read."""
    try:
        size_of(path)
        about = path.stat()
        return _digest(path, about.st_mtime_ns, about.st_size)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise unreadable(path, error) from error


@functools.cache  # a file is read again only if it seems to have changed
def _digest(path: Path, modified: int, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def json_lines(path: Path) -> Iterator[Located]:
    """Yields (FILE:LINE, value) of JSON lines, as `read_file`, whatever the file is called."""
    for number, line in enumerate(lines(path), 1):
        if line is None:
            yield f"{path}:{number}", _too_large()
            continue
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield f"{path}:{number}", _parsed(line)


def _too_large() -> UserError:
    return UserError(f"this row has more than {LARGEST_ROW // 2**20} MiB; divide it")


def _parsed(line: bytes) -> Any:
    """The JSON value of a line, or the UserError that it is none that can be read."""
    try:
        return json.loads(text_of(line), object_pairs_hook=_object)
    except UserError as error:
        return error
    except (ValueError, RecursionError) as error:  # also a number of too many digits
        reason = str(error).partition(";")[0]
        return UserError(f"this line is not JSON ({reason}); write one JSON object per line")


def _object(pairs: list[tuple[str, Any]]) -> dict:
    """A JSON object, of which Python would keep the last of two values under one key."""
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key `{shown(twice)}` stands twice in one object")
    return row


def _json_list(path: Path) -> Iterator[Located]:
    text = "".join(text_blocks(path, plain_ends=False))
    try:
        rows = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = error.msg if line else str(error).partition(";")[0]
        raise UserError(
            f"{path}{line}: this is not JSON ({reason}); mend it, or write "
            f"one object per line into a .jsonl file."
        ) from error
    if not isinstance(rows, list):
        raise UserError(
            f"{path}:1: the file must hold a list of objects, not "
            f"{type(rows).__name__}; put it in [ ]."
        )
    yield from ((f"{path}: row {number}", row) for number, row in enumerate(rows, 1))


# Plain text.


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    rest, number = "", 1
    for block in text_blocks(path):
        *whole, rest = (rest + block).split("\n")
        yield from enumerate(whole, number)
        number += len(whole)
        _check_size(path, number, rest)
    yield number, rest


def _documents(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (line, document): what stands between marks, or else grouped paragraphs, of which one
    without an end is cut between words."""
    yield from _between_marks(path) if _is_marked(path) else _grouped_paragraphs(path)


def _is_marked(path: Path) -> bool:
    end = ""
    for block in text_blocks(path):
        if END_OF_TEXT in end + block:
            return True
        end = (end + block)[-len(END_OF_TEXT) :]
    return False


def _between_marks(path: Path) -> Iterator[tuple[int, str]]:
    rest, line = "", 1
    for block in text_blocks(path):
        *whole, rest = (rest + block).split(END_OF_TEXT)
        for document in whole:
            yield line, document.strip("\n")
            line += document.count("\n")
        _check_size(path, line, rest)
    yield line, rest.strip("\n")


def _grouped_paragraphs(path: Path) -> Iterator[tuple[int, str]]:
    # `behind`: lines of a document without an end of which pieces were cut off already.
    rest, line, behind, begun = "", 1, 0, False
    for block in text_blocks(path):
        rest += block
        start = 0
        last = len(rest.rstrip())  # an end that the next block may lengthen is none yet
        for end in re.finditer(r"\n\s*\n", rest):
            if (begun or end.start() - start >= DOCUMENT_CHARACTERS) and end.end() <= last:
                pieces = _cut_between_words(rest[start : end.start()], begun)
                yield from ((line, piece) for piece in pieces)
                line += behind + rest.count("\n", start, end.end())
                start, behind, begun = end.end(), 0, False
        if last - start > LONGEST_WAIT:
            *pieces, tail = _cut_between_words(rest[start:last], begun)
            yield from ((line, piece) for piece in pieces)
            behind += rest.count("\n", start, last - len(tail))
            start, begun = last - len(tail), True
        rest = rest[start:]
    yield from ((line, piece) for piece in _cut_between_words(rest, begun))


def _cut_between_words(document: str, begun: bool) -> Iterator[str]:
    """The document or, if it is very long, pieces of it, as of one of which some are cut off."""
    document = document.rstrip("\n") if begun else document.strip("\n")
    if len(document) <= LONGEST_DOCUMENT and not begun:
        yield document
        return
    start = 0
    while len(document) - start > DOCUMENT_CHARACTERS:
        limit = start + DOCUMENT_CHARACTERS
        end = max(document.rfind(mark, start + 1, limit) for mark in ("\n", " "))
        end = end if end > 0 else limit
        yield document[start:end]
        start = end
    yield document[start:]


def _check_size(path: Path, line: int, text: str) -> None:
    if len(text) > LARGEST_ROW:
        raise UserError(
            f"{path}:{line}: this text has more than {LARGEST_ROW // 2**20} MiB without an end; "
            f"put {END_OF_TEXT} between its documents."
        )
