"""Where rows come from: the microworld, local files, and TFDS data sets.

A source is named by a string: `microworld`, a path, or `tfds:NAME[/CONFIG]`. Several paths may be
joined by commas, and are one source. Files may be plain or packed (.gz, .xz):

    .jsonl   one JSON object per line
    .json    a list of JSON objects
    .txt     documents, between `<|endoftext|>` marks; without any mark the paragraphs are grouped
             into documents of about 2,000 characters. As prompts: one per line.

Every row is checked when it is read, before any training starts.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gpt_jax.data import schemas
from gpt_jax.data.local_files import Located, fingerprint, read_file
from gpt_jax.data.split import train_test_split
from gpt_jax.errors import UserError

MICROWORLD = "microworld"
TO_CANONICAL = {
    "text": schemas.to_document,
    "demonstrations": schemas.to_demonstration,
    "comparisons": schemas.to_comparison,
    "prompts": schemas.to_prompt,
}
NAMED = 5  # broken rows that a message names
# Of a source: what to train on; what to test on; all of it, where the other part is another source;
# all of one that is named as held out.
Split = Literal["train", "test", "all", "held_out"]


class Read(NamedTuple):
    """Rows in canonical form, and how many were left out for which reason."""

    rows: list[dict]
    left_out: collections.Counter


def read(
    spec: str,
    kind: str,
    split: Split = "train",
    seed: int = 0,
    *,
    skip_broken: bool = False,
) -> list[dict]:
    """All rows of one kind and split, in canonical form; see `read_counted`."""
    return read_counted(spec, kind, split, seed=seed, skip_broken=skip_broken).rows


def read_counted(
    spec: str,
    kind: str,
    split: Split = "train",
    *,
    seed: int = 0,
    skip_broken: bool = False,
    records: bool = False,
) -> Read:
    """All rows of one kind and split, in canonical form (see `schemas`), and what was left out.

    Args:
      spec: `microworld`, a path or several joined by commas, or `tfds:NAME[/CONFIG]`.
      kind: text, demonstrations, comparisons or prompts.
      split: a file is divided by `split.train_test_split` into train and test; "all" and "held_out"
        are the whole of it. A TFDS data set with a test split of its own is not divided; "all" is
        its train split, and "held_out" its test split, else its validation split, else all.
      seed: of the microworld, or of the division.
      skip_broken: leave broken rows out, and count them.
      records: keep beside each row the one that it was made from, as `record`.

    Raises:
      UserError: naming file and line, if the source is missing, rows are broken, or the split is
        empty.
    """
    convert = functools.partial(_with_record, kind) if records else TO_CANONICAL[kind]
    if spec == MICROWORLD:
        # Importing TFDS takes half a second, which a run on local files need not pay.
        from gpt_jax.data.microworld import builder

        part = {"all": "train", "held_out": "test"}.get(split, split)
        rows = builder.load(kind, part, seed=seed)
        located = ((f"{MICROWORLD}:{i}", row) for i, row in enumerate(rows))
        return _canonical(located, kind, spec, convert=convert)
    if spec.startswith("tfds:"):
        located, divide = _read_tfds(spec, split)
        rows, left_out = _canonical(located, kind, spec, skip_broken, convert=convert)
    else:
        # Divided together, so that what begins alike in two files lies on one side.
        parts = [
            _canonical(read_file(path, kind), kind, str(path), skip_broken, convert=convert)
            for path in paths(spec)
        ]
        rows = [row for part in parts for row in part.rows]
        left_out = sum((part.left_out for part in parts), collections.Counter())
        divide = split in ("train", "test")
    if divide:
        train, test = train_test_split(rows, seed)
        unused = len(rows) - len(train) - len(test)
        rows = train if split == "train" else test
        if not rows:
            raise UserError(_empty(spec, kind, split, len(train) + len(test)))
        left_out = +(left_out + collections.Counter({"held-out rows beyond those used": unused}))
    for reason, count in left_out.items():
        say_once(f"{spec}: left out {count:,} {reason}")
    return Read(rows, left_out)


@functools.cache
def say_once(text: str) -> None:
    """Says a sentence on standard error, if it has not been said."""
    print(text, file=sys.stderr)


def _with_record(kind: str, row) -> dict:
    return {**TO_CANONICAL[kind](row), "record": row}


def paths(spec: str) -> list[Path]:
    """The files of a source; a name may hold a comma."""
    return [Path(path) for path in ([spec] if os.path.exists(spec) else spec.split(","))]


def source_fingerprint(spec: str) -> str:
    """A number that changes when what the source holds does: the bytes of files, the version of a
    data set."""
    if spec == MICROWORLD:
        from gpt_jax.data.microworld.builder import source_digest

        return source_digest()[:16]
    if spec.startswith("tfds:"):
        return hashlib.sha256(_tfds_builder(spec).info.full_name.encode()).hexdigest()[:16]
    return "-".join(fingerprint(path) for path in paths(spec))


def _empty(spec: str, kind: str, split: str, rows: int) -> str:
    """What to say where a source's rows all lie on one side."""
    mend = f"name a held-out source with --data.test-{kind}, or give more rows"
    return (
        f"{spec}: none of its {rows} rows of {kind} falls into the {split} part, since rows are "
        f"divided by how they begin, 19 to train to 1 to test; {mend}."
    )


def _canonical(
    located: Iterable[Located],
    kind: str,
    spec: str,
    skip_broken: bool = False,
    *,
    convert: Callable[[Any], dict],
) -> Read:
    """Converts (place, row) pairs, and says of how many, and at which places, rows are broken."""
    rows, left_out, broken, count = [], collections.Counter(), [], 0
    for place, row in located:
        count += 1
        try:
            if isinstance(row, UserError):
                raise row
            rows.append(convert(row))
        except schemas.NotADemonstration:
            left_out["rows whose reply is empty or marked as bad"] += 1
        except UserError as error:
            broken.append(f"{place}: {error}")
    if broken and (not skip_broken or len(broken) == count):
        raise UserError(_broken(broken, count, skip_broken))
    left_out["broken rows"] += len(broken)
    if not rows:
        raise UserError(f"{spec}: there is no row for `{kind}` in it; give a source that has some.")
    return Read(rows, +left_out)


def _broken(broken: list[str], count: int, skip_broken: bool) -> str:
    skip = "" if skip_broken else ", or leave {} out with --data.skip-broken"
    if len(broken) == 1:
        return f"{broken[0]}; mend or remove this row{skip.format('it')}."
    named = "; ".join(broken[:NAMED])
    more = f"; and {len(broken) - NAMED:,} more" if len(broken) > NAMED else ""
    return (
        f"{len(broken):,} of {count:,} rows are broken: {named}{more}; mend or remove "
        f"them{skip.format('them')}."
    )


# TFDS.


def _tfds_builder(spec: str):
    """A TFDS data set that is already prepared, or can be, in array_record format."""
    import tensorflow_datasets as tfds

    name = spec.removeprefix("tfds:")
    try:
        return tfds.builder(name, file_format="array_record")
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{spec}: TFDS knows no such data set ({reason}); check the name, and "
            f"import the module that defines it."
        ) from error


def _read_tfds(spec: str, split: Split) -> tuple[Iterator[Located], bool]:
    """The rows, and whether they are still to be divided."""
    builder = _tfds_builder(spec)
    try:
        builder.download_and_prepare()
    except Exception as error:  # of the network, the disk, or a module that is missing
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{spec}: TFDS cannot prepare it here ({type(error).__name__}: {reason}); prepare it "
            "where that works, or name files."
        ) from error
    there = builder.info.splits
    wanted = {"all": ["train"], "held_out": ["test", "validation", "train"]}.get(
        split, [split, "train"]
    )
    part = next((name for name in wanted if name in there), None)
    if part is None:
        raise UserError(
            f"{spec}: it has no split `train`, only {', '.join(there)}; choose another data set."
        )
    rows = (_plain(row) for row in builder.as_data_source(part))
    located = ((f"{spec}:{part}:{number}", row) for number, row in enumerate(rows))
    return located, split in ("train", "test") and "test" not in there


def _plain(row: dict) -> Any:
    from gpt_jax.data.microworld.builder import plain_row

    try:
        return plain_row(row)
    except UserError as error:
        return error
