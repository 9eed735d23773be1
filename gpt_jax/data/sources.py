"""Where rows come from: the microworld, local files, and data sets by name.

A source is named by a string: `microworld`, a path, `tfds:NAME[/CONFIG]`, `hf:[ORG/]NAME[/CONFIG]`,
or `tokens:FOLDER` (see `store`). Paths may be patterns (wiki/*.jsonl), and several may be joined by
commas; all are one source. Several sources, each with its weight, are a mixture (see `mixture`).
Files may be plain or packed (.gz, .xz, .zst):

    .jsonl       one JSON object per line
    .json        a list of JSON objects
    .csv, .tsv   a table whose first line names the columns
    .parquet     a table (not packed again)
    .txt         documents, between `<|endoftext|>` marks; without any mark the paragraphs are
                 grouped into documents of about 2,000 characters. As prompts: one per line.

Every row is checked when it is read, before any training starts.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

from gpt_jax.data import hub, mixture, schemas, store, trees
from gpt_jax.data.local_files import Located, fingerprint, read_file
from gpt_jax.data.named_files import paths
from gpt_jax.data.split import train_test_split
from gpt_jax.errors import UserError

MICROWORLD = "microworld"
TO_CANONICAL = {
    "text": schemas.to_document,
    "demonstrations": schemas.to_demonstration,
    "comparisons": schemas.to_comparison,
    "feedback": schemas.to_feedback,
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
      spec: of a source or a mixture; see above.
      kind: text, demonstrations, comparisons, feedback or prompts.
      split: a file is divided by `split.train_test_split` into train and test; "all" and "held_out"
        are the whole of it. A data set with a test split of its own is not divided; "all" is
        its train split, and "held_out" its test split, else its validation split, else all.
      seed: of the microworld, or of the division.
      skip_broken: leave broken rows out, and count them.
      records: keep beside each row the one that it was made from, as `record`.

    Raises:
      UserError: naming file and line, if the source is missing, rows are broken, or the split is
        empty.
    """
    parts = mixture.parse(spec)
    if len(parts) > 1:
        return _read_mixture(parts, kind, split, seed, skip_broken=skip_broken, records=records)
    convert = functools.partial(_with_record, kind) if records else TO_CANONICAL[kind]
    spec = parts[0].spec
    located, divide = _located(spec, kind, split, seed)
    # Files are divided together, so that what begins alike in two of them lies on one side.
    found = [_canonical(rows, kind, name, skip_broken, convert=convert) for name, rows in located]
    rows = [row for part in found for row in part.rows]
    left_out = sum((part.left_out for part in found), collections.Counter())
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


def _located(
    spec: str, kind: str, split: str, seed: int
) -> tuple[Iterator[tuple[str, Iterator[Located]]], bool]:
    """The raw rows of a source, file by file with its name, and whether to divide them."""
    divide = False
    if spec == MICROWORLD:
        if kind == "feedback":
            raise UserError(
                f"{spec} has no marked answers; leave --data.feedback out, and its comparisons are "
                "taken apart"
            )
        # Importing TFDS takes half a second, which a run on local files need not pay.
        from gpt_jax.data.microworld import builder

        part = {"all": "train", "held_out": "test"}.get(split, split)
        rows = enumerate(builder.load(kind, part, seed=seed))
        return iter([(spec, ((f"{MICROWORLD}:{i}", row) for i, row in rows))]), False
    if store.is_store(spec):
        if kind != "text" or split in ("train", "all"):
            raise UserError(
                f"{spec}: token shards are text to pretrain on, and are not read row by row; name "
                f"files or a data set for the {kind} of the {split} part."
            )
        rows = enumerate(store.open_store(spec).held_out_texts())
        return iter([(spec, ((f"{spec}:{i}", {"text": text}) for i, text in rows))]), False
    if spec.startswith(("tfds:", "hf:")):
        read_named = hub.read_tfds if spec.startswith("tfds:") else hub.read_hf
        located, divide = read_named(spec, split)
        files = iter([(spec, located)])
    else:
        files = ((str(path), read_file(path, kind)) for path in paths(spec))
        divide = split in ("train", "test")
    return ((name, trees.unrolled(rows, kind)) for name, rows in files), divide


def _read_mixture(
    parts: list[mixture.Part], kind: str, split: Split, seed: int, **options: bool
) -> Read:
    """The rows of several sources; of other kinds than text, those to train on in their shares."""
    found = [read_counted(part.spec, kind, split, seed=seed, **options) for part in parts]
    left_out = sum((part.left_out for part in found), collections.Counter())
    rows = [part.rows for part in found]
    if kind == "text" or split not in ("train", "all"):
        return Read(list(itertools.chain.from_iterable(rows)), left_out)
    drawn = mixture.rows_by_share(rows, [part.share for part in parts], seed)
    counts = mixture.whole_shares([part.share for part in parts], len(drawn))
    for part, some, count in zip(parts, rows, counts, strict=True):
        left_out[f"rows of {part.spec} beyond its share"] += max(0, len(some) - count)
        say_once(
            f"{part.spec}: {part.share:.1%} of the {kind}, {count / len(some):.2f} of its "
            f"{len(some):,} rows in one pass"
        )
    return Read(drawn, +left_out)


def raw_rows(spec: str, kind: str = "text", split: str = "held_out") -> Iterator[Located]:
    """Yields (place, row as it lies there) of a source that is no mixture, all of it.

    Args:
      spec: a source.
      kind: what its rows are read as.
      split: of a data set that has several: its name, or "held_out" for what is there to test on.
    """
    files, _ = _located(spec, kind, split, seed=0)
    for _, located in files:
        yield from located


def kind_of(spec: str) -> str:
    """What a source most likely is for, by its first rows: the most particular kind they can be."""
    spec = mixture.parse(spec)[0].spec
    if spec == MICROWORLD or store.is_store(spec):
        return "text"
    for kind in ("comparisons", "demonstrations", "text", "prompts"):
        left_out: collections.Counter = collections.Counter()
        try:
            first = itertools.islice(raw_rows(spec, kind), 20)
            if any(_rows(first, TO_CANONICAL[kind], left_out, [])) or left_out:
                return kind
        except UserError:
            continue  # a .txt file holds no comparisons
    return "text"


def documents(
    spec: str, left_out: collections.Counter, *, skip_broken: bool = False
) -> Iterator[tuple[str, str]]:
    """Yields (place, text) of every document to train on, one at a time; nothing is kept.

    Args:
      spec: a source, which is no mixture; of a data set with a test split, this is not read.
      left_out: counts what is left out.
      skip_broken: leave broken rows out, where otherwise the first one ends the reading.
    """
    files, _ = _located(spec, "text", "all", seed=0)
    for _, located in files:
        for place, row in located:
            broken: list[str] = []
            for canonical in _rows([(place, row)], TO_CANONICAL["text"], left_out, broken):
                yield place, canonical["text"]
            if broken and not skip_broken:
                raise UserError(_broken(broken, 1, skip_broken))
            left_out["broken rows"] += len(broken)


@functools.cache
def say_once(text: str) -> None:
    """Says a sentence on standard error, if it has not been said."""
    print(text, file=sys.stderr)


def _with_record(kind: str, row) -> dict:
    return {**TO_CANONICAL[kind](row), "record": row}


def source_fingerprint(spec: str) -> str:
    """A number that changes when what the source holds does: the bytes of files, the version of a
    data set."""
    if spec == MICROWORLD:
        from gpt_jax.data.microworld.builder import source_digest

        return source_digest()[:16]
    parts = mixture.parse(spec)
    if len(parts) > 1:
        return "-".join(source_fingerprint(part.spec) for part in parts)
    spec = parts[0].spec
    if store.is_store(spec):
        return store.open_store(spec).fingerprint
    if spec.startswith("hf:"):
        return hub.hf_fingerprint(spec)
    if spec.startswith("tfds:"):
        return hashlib.sha256(hub.tfds_builder(spec).info.full_name.encode()).hexdigest()[:16]
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
    left_out, broken = collections.Counter(), []
    rows = list(_rows(located, convert, left_out, broken))
    count = len(rows) + len(broken) + left_out.total()
    if broken and (not skip_broken or len(broken) == count):
        raise UserError(_broken(broken, count, skip_broken))
    left_out["broken rows"] += len(broken)
    if not rows:
        raise UserError(f"{spec}: there is no row for `{kind}` in it; give a source that has some.")
    return Read(rows, +left_out)


def _rows(
    located: Iterable[Located],
    convert: Callable[[Any], dict],
    left_out: collections.Counter,
    broken: list[str],
) -> Iterator[dict]:
    """Yields canonical rows; the others are counted, or named among the broken ones."""
    for place, row in located:
        try:
            if isinstance(row, UserError):
                raise row
            yield convert(row)
        except schemas.NotADemonstration as error:
            left_out[error.reason] += 1
        except UserError as error:
            broken.append(f"{place}: {error}")


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
