"""Local files as raw rows: what lies in them, before anything is known of its layout."""

from __future__ import annotations

import codecs
import functools
import gzip
import hashlib
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt_jax.data.values import shown, text_of
from gpt_jax.errors import UserError

END_OF_TEXT = "<|endoftext|>"
DOCUMENT_CHARACTERS = 2000
LONGEST_DOCUMENT = 50_000  # characters of a paragraph that is still one document

Located = tuple[str, Any]  # where a row stands, and the row, or the UserError that it is


def read_file(path: Path, kind: str) -> Iterator[Located]:
    """Yields (FILE:LINE, raw row) of a file; a row that is no JSON is the UserError that says so.

    Raises:
      UserError: if the file as a whole cannot be read.
    """
    name = path.name.removesuffix(".gz").removesuffix(".xz")
    if name.endswith(".jsonl"):
        yield from _json_lines(path)
    elif name.endswith(".json"):
        yield from _json_list(path)
    elif name.endswith(".txt") and kind in ("text", "prompts"):
        text = _decode(path).replace("\r\n", "\n").replace("\r", "\n")
        rows = _documents(text) if kind == "text" else enumerate(text.split("\n"), 1)
        yield from ((f"{path}:{line}", row) for line, row in rows if row.strip())
    else:
        wanted = (
            ".jsonl or .json"
            if kind in ("demonstrations", "comparisons")
            else (".jsonl, .json or .txt")
        )
        raise UserError(
            f"{path}: {kind} are read from a {wanted} file (or one of these packed as "
            f".gz or .xz); rename or convert it."
        )


def fingerprint(path: Path) -> str:
    """A number for the bytes of a file; a UserError if there is none to read."""
    try:
        about = path.stat()
        return _digest(path, about.st_mtime_ns, about.st_size)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise _unreadable(path, error) from error


@functools.cache  # a file is read again only if it seems to have changed
def _digest(path: Path, modified: int, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _bytes(path: Path) -> bytes:
    open_file = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    try:
        with open_file(path, "rb") as file:
            return file.read()
    except (OSError, ValueError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: there is no such file; check the path.")
    if isinstance(error, IsADirectoryError):
        return UserError(f"{path}: this is a folder; name a file in it.")
    return UserError(f"{path}: it cannot be read ({error}); check or replace it.")


def _decode(path: Path) -> str:
    data = _bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8."
        ) from error


def _json_lines(path: Path) -> Iterator[Located]:
    data = _bytes(path).removeprefix(codecs.BOM_UTF8)
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            yield f"{path}:{number}", _parsed(line)


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
    try:
        rows = json.loads(_decode(path), object_pairs_hook=_object)
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


def _documents(text: str) -> Iterator[tuple[int, str]]:
    """Yields (line, document): what stands between marks, or else grouped paragraphs, of which one
    without an end is cut between words."""
    marked = END_OF_TEXT in text
    for line, document in _between(text, marked):
        pieces = [document] if marked else _cut_between_words(document)
        yield from ((line, piece) for piece in pieces)


def _between(text: str, marked: bool) -> Iterator[tuple[int, str]]:
    separator = re.escape(END_OF_TEXT) if marked else r"\n\s*\n"
    limit = 0 if marked else DOCUMENT_CHARACTERS
    start = 0
    ends = [match.span() for match in re.finditer(separator, text)] + [(len(text), len(text))]
    line, counted = 1, 0
    for end, following in ends:
        if end - start >= limit or end == len(text):
            line += text.count("\n", counted, start)
            counted = start
            yield line, text[start:end].strip("\n")
            start = following


def _cut_between_words(document: str) -> Iterator[str]:
    if len(document) <= LONGEST_DOCUMENT:
        yield document
        return
    while len(document) > DOCUMENT_CHARACTERS:
        end = max(document.rfind(mark, 1, DOCUMENT_CHARACTERS) for mark in ("\n", " "))
        end = end if end > 0 else DOCUMENT_CHARACTERS
        yield document[:end]
        document = document[end:]
    yield document
