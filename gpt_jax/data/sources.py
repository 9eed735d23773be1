"""Where rows come from: the microworld, local files, and TFDS data sets.

A source is named by a string: `microworld`, a path, or `tfds:NAME[/CONFIG]`. Several paths may be
joined by commas, and are one source. Files may be plain or packed (.gz, .xz):

    .jsonl   one JSON object per line
    .json    a list of JSON objects
    .txt     documents, between `<|endoftext|>` marks; without any mark the paragraphs are grouped
             into documents of about 2,000 characters. As prompts: one per line.

Every row is checked when it is read, before any training starts.
"""

import gzip
import hashlib
import json
import lzma
import os
import re
import sys
import zlib
from pathlib import Path

from gpt_jax.data import schemas
from gpt_jax.errors import UserError

MICROWORLD = "microworld"
TO_CANONICAL = {
    "text": schemas.to_document,
    "demonstrations": schemas.to_demonstration,
    "comparisons": schemas.to_comparison,
    "prompts": schemas.to_prompt,
}
END_OF_TEXT = "<|endoftext|>"
DOCUMENT_CHARACTERS = 2000
TEST_FRACTION, MOST_TEST_ROWS = 0.05, 1000


def read(
    spec: str, kind: str, split: str = "train", seed: int = 0, label_noise: float = 0.0
) -> list[dict]:
    """All rows of one kind and split, in canonical form (see `schemas`).

    Args:
      spec: `microworld`, a path or several joined by commas, or `tfds:NAME[/CONFIG]`.
      kind: text, demonstrations, comparisons or prompts.
      split: train or test; or `all`, for a source of one part. A source with one part is divided by
        `train_test_split`.
      seed: of the microworld, or of the division.
      label_noise: microworld comparisons only; the share of pairs labelled the wrong way round.

    Raises:
      UserError: naming file and line, if the source is missing or any row is broken.
    """
    if spec == MICROWORLD:
        # Importing TFDS takes half a second, which a run on local files need not pay.
        from gpt_jax.data.microworld import builder

        noise = label_noise if kind == "comparisons" else 0.0
        rows = builder.load(kind, split, seed=seed, label_noise=noise)
        return _canonical(((f"{MICROWORLD}:{i}", row) for i, row in enumerate(rows)), kind, spec)
    if spec.startswith("tfds:"):
        return _read_tfds(spec, kind, split, seed)
    # Divided together, so that what begins alike in two files lies on one side.
    rows = []
    for path in [spec] if os.path.exists(spec) else spec.split(","):  # A name may hold a comma.
        rows += _canonical(_read_file(Path(path), kind), kind, path)
    return _part(rows, split, seed)


def train_test_split(
    rows: list[dict],
    seed: int = 0,
    test_fraction: float = TEST_FRACTION,
    most_test_rows: int = MOST_TEST_ROWS,
) -> tuple[list[dict], list[dict]]:
    """Divides canonical rows by a hash of their first user turn (or text).

    Rows that begin alike always lie on the same side, whatever else the source holds; so one file
    of comparisons and one of prompts on the same questions are divided alike. Rows keep their
    order. The test part has about `test_fraction` of the rows, and where that is more than
    `most_test_rows`, the fraction is lowered to fit.
    """
    fraction = min(test_fraction, most_test_rows / max(len(rows), 1))
    parts = ([], [])
    for row in rows:
        digest = hashlib.sha256(f"{seed} {_opening(row)}".encode()).digest()
        parts[int.from_bytes(digest[:8], "big") < fraction * 2**64].append(row)
    return parts


def _opening(row: dict) -> str:
    if "text" in row:
        return row["text"]
    turns = row.get("messages") or row["prompt"]
    return next(turn["content"] for turn in turns if turn["role"] == "user")


def _part(rows: list[dict], split: str, seed: int) -> list[dict]:
    if split == "all":
        return rows
    train, test = train_test_split(rows, seed)
    return train if split == "train" else test


def _canonical(located, kind: str, spec: str) -> list[dict]:
    """Converts (place, row) pairs, and says at which place the first broken row is."""
    rows, left_out = [], 0
    for place, row in located:
        try:
            rows.append(TO_CANONICAL[kind](row))
        except schemas.NotADemonstration:
            left_out += 1
        except UserError as error:
            raise UserError(f"{place}: {error}; mend or remove this row.") from error
    if not rows:
        raise UserError(f"{spec}: there is no row for `{kind}` in it; give a source that has some.")
    if left_out:
        print(
            f"{spec}: left out {left_out} rows whose reply is empty or marked as bad",
            file=sys.stderr,
        )
    return rows


# Files.


def _read_file(path: Path, kind: str):
    """Yields (FILE:LINE, raw row)."""
    name = path.name.removesuffix(".gz").removesuffix(".xz")
    if name.endswith(".jsonl"):
        yield from _json_lines(path)
    elif name.endswith(".json"):
        yield from _json_list(path)
    elif name.endswith(".txt") and kind in ("text", "prompts"):
        text = _decode(path)
        rows = _paragraph_groups(text) if kind == "text" else enumerate(text.split("\n"), 1)
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


def _bytes(path: Path) -> bytes:
    open_file = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    try:
        with open_file(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; check the path.") from None
    except IsADirectoryError:
        raise UserError(f"{path}: this is a folder; name a file in it.") from None
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{path}: it cannot be read ({error}); check or replace it.") from error


def _decode(path: Path) -> str:
    data = _bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8."
        ) from error


def _json_lines(path: Path):
    for number, line in enumerate(_decode(path).split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(
                    f"{path}:{number}: this line is not JSON ({error}); write one JSON "
                    f"object per line."
                ) from error
            yield f"{path}:{number}", row


def _json_list(path: Path):
    try:
        rows = json.loads(_decode(path))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: this is not JSON ({error.msg}); mend it, or write "
            f"one object per line into a .jsonl file."
        ) from error
    if not isinstance(rows, list):
        raise UserError(
            f"{path}:1: the file must hold a list of objects, not "
            f"{type(rows).__name__}; put it in [ ]."
        )
    yield from ((f"{path}: row {number}", row) for number, row in enumerate(rows, 1))


def _paragraph_groups(text: str):
    """Yields (line, document)."""
    text = text.replace("\r\n", "\n")
    separator = re.escape(END_OF_TEXT) if END_OF_TEXT in text else r"\n\s*\n"
    limit = 0 if END_OF_TEXT in text else DOCUMENT_CHARACTERS
    start = 0
    ends = [match.span() for match in re.finditer(separator, text)] + [(len(text), len(text))]
    line, counted = 1, 0
    for end, following in ends:
        if end - start >= limit or end == len(text):
            line += text.count("\n", counted, start)
            counted = start
            yield line, text[start:end].strip("\n")
            start = following


# TFDS.


def _read_tfds(spec: str, kind: str, split: str, seed: int) -> list[dict]:
    """Rows of a TFDS data set that is already prepared, or can be, in array_record format."""
    import tensorflow_datasets as tfds

    from gpt_jax.data.microworld.builder import plain_rows

    name = spec.removeprefix("tfds:")
    try:
        builder = tfds.builder(name, file_format="array_record")
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{spec}: TFDS knows no such data set ({reason}); check the name, and "
            f"import the module that defines it."
        ) from error
    builder.download_and_prepare()
    part = split if split in builder.info.splits else "train"
    if part not in builder.info.splits:
        raise UserError(
            f"{spec}: it has no split `train`, only {', '.join(builder.info.splits)}; "
            f"choose another data set."
        )
    rows = plain_rows(builder.as_data_source(part))
    located = ((f"{spec}:{part}:{number}", row) for number, row in enumerate(rows))
    rows = _canonical(located, kind, spec)
    # A data set with a test split of its own is not divided again.
    return rows if split == "all" or "test" in builder.info.splits else _part(rows, split, seed)
