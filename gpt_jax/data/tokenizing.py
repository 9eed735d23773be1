"""Documents -> token shards (see `store`): with all cores, and so that a killed run goes on.

The tokens of a part are written beside it as they come, and the part joins store.json when it is
whole. A run that goes on reads past the documents of the whole parts, which takes a fraction of
the time that tokenizing them took, and writes what the killed one would have written.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from gpt_jax import files
from gpt_jax.data import mixture, named_files, sources, split, store, unpacked
from gpt_jax.data.encoding import (
    ahead,
    encode_documents,
    in_chunks,
    tokenizer_digest,
)
from gpt_jax.data.parts import Part
from gpt_jax.errors import UserError
from gpt_jax.text.tokenizer import Tokenizer

PART_TOKENS = 2**25  # of a part: 64 MiB of uint16; a killed run does at most so much again


def write_store(
    spec: str,
    folder: Path,
    tokenizer: Tokenizer,
    *,
    skip_broken: bool = False,
    part_tokens: int = PART_TOKENS,
    progress: Callable[[int], None] = lambda tokens: None,
) -> store.Store:
    """Writes the documents of a source as token shards, or goes on with it.

    Args:
      spec: of one source.
      folder: of the store; empty, or begun by the same command.
      tokenizer: of the model to be trained.
      skip_broken: leave broken rows out, and count them.
      part_tokens: a part is closed once it has so many.
      progress: called with the number of tokens written since the last call.

    Raises:
      UserError: the spec is a mixture or itself a store, has no documents or broken rows, the
        folder was begun from something else, or cannot be written.
    """
    facts = begin(spec, folder, tokenizer, skip_broken)
    if not facts["complete"]:
        _write(
            spec, folder, tokenizer, facts,
            skip_broken=skip_broken, part_tokens=part_tokens, progress=progress,
        )  # fmt: skip
    return store.open_store(f"{store.PREFIX}{folder}")


def begin(spec: str, folder: Path, tokenizer: Tokenizer, skip_broken: bool) -> dict:
    """What store.json says of the store as far as it is written; see `write_store`."""
    if len(mixture.parse(spec)) > 1 or store.is_store(spec):
        raise UserError(
            f"{spec}: each source is tokenized apart; the folders are mixed when they are trained "
            f'on: --data.text "{store.PREFIX}FOLDER=0.7,{store.PREFIX}OTHER=0.3"'
        )
    made_from = {
        "source": spec,
        "source_fingerprint": sources.source_fingerprint(spec),
        "skip_broken": skip_broken,
    }
    if (folder / "store.json").is_file():
        facts = store.read_facts(folder)
        if skip_broken and not facts.get("skip_broken"):
            facts["skip_broken"] = True  # a run without it has met no broken row so far
        other = [name for name, value in made_from.items() if facts.get(name) != value]
        if tokenizer_digest(folder) != facts["tokenizer"] or Tokenizer.load(folder) != tokenizer:
            other.append("tokenizer")
        if other:
            raise UserError(
                f"{folder}: it was begun with another {other[0].replace('_', ' ')}; choose another "
                "--output, or remove this folder."
            )
        return facts
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder}: it holds something else; choose another --output.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.unwritable(folder, error) from error
    tokenizer.save(folder)
    facts = {
        "format": store.FORMAT,
        "dtype": "uint16" if tokenizer.vocab_size <= 2**16 else "uint32",
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer_digest(folder),
        **made_from,
        "complete": False,
        "parts": [],
    }
    save_facts(folder, facts)
    return facts


def save_facts(folder: Path, facts: dict) -> None:
    """Writes store.json."""
    files.write_text(folder / "store.json", json.dumps(facts, indent=1) + "\n")


def _write(
    spec: str,
    folder: Path,
    tokenizer: Tokenizer,
    facts: dict,
    *,
    skip_broken: bool,
    part_tokens: int,
    progress: Callable[[int], None],
) -> None:
    left_out: collections.Counter = collections.Counter()
    documents = sources.documents(spec, left_out, skip_broken=skip_broken)
    behind = sum(part[name][1] for part in facts["parts"] for name in ("train", "test"))
    for _ in range(behind):
        next(documents)
    made = encoded((text for _, text in documents), tokenizer)
    try:
        part = Part(folder, len(facts["parts"]), facts["dtype"])
        for ids, draws in made:
            progress(part.add(ids, draws))
            if part.tokens >= part_tokens:
                facts["parts"].append(part.close())
                save_facts(folder, facts)
                part = Part(folder, len(facts["parts"]), facts["dtype"])
        last = part.close()
    except OSError as error:
        raise files.unwritable(folder, error) from error
    if last["train"][1] or last["test"][1]:
        facts["parts"].append(last)
    else:
        for name in last["files"]:
            (folder / name).unlink()
    finish(spec, folder, facts, left_out)


def finish(spec: str, folder: Path, facts: dict, left_out: collections.Counter) -> None:
    """Writes store.json for the last time.

    Raises:
      UserError: if there is nothing to train on.
    """
    if not sum(part["train"][1] for part in facts["parts"]):
        raise UserError(f"{spec}: there is no document to train on in it; give more text.")
    facts |= {"complete": True, "left_out": dict(+left_out)}
    save_facts(folder, facts)


def encoded(
    texts: Iterator[str], tokenizer: Tokenizer
) -> Iterator[tuple[list[np.ndarray], list[float | None]]]:
    """Yields tokens and draws (None: it is trained on) of some documents at a time, in order."""

    def make(chunk: list[str]) -> tuple[list[np.ndarray], list[float | None]]:
        return encode_documents(chunk, tokenizer), _draws(chunk)

    return (made for _, made in ahead(make, in_chunks(texts, len)))


def _draws(texts: list[str]) -> list[float | None]:
    rows = [{"text": text} for text in texts]
    return [split.draw(row) if split.held_out(row) else None for row in rows]


def bytes_on_disk(spec: str) -> dict[Path, int]:
    """The sizes of the files of a source, by which its progress is measured; of a data set none."""
    if spec == sources.MICROWORLD or spec.startswith(("tfds:", "hf:")):
        return {}
    sizes = {}
    for path in named_files.paths(spec):
        with unpacked.readable(path):
            sizes[path] = unpacked.size_of(path)
    return sizes
