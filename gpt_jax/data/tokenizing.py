"""Documents -> token shards (see `store`): with all cores, and so that a killed run goes on.

The tokens of a part are written beside it as they come, and the part joins store.json when it is
whole. A run that goes on reads past the documents of the whole parts, which takes a fraction of
the time that tokenizing them took, and writes what the killed one would have written.
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gpt_jax import files
from gpt_jax.data import mixture, named_files, sources, split, store, unpacked
from gpt_jax.data.encoding import (
    ahead,
    encode_documents,
    in_chunks,
    load_tokenizer,
    save_tokenizer,
    tokenizer_digest,
)
from gpt_jax.errors import UserError
from gpt_jax.text.tokenizer import Tokenizer

PART_TOKENS = 2**25  # of a part: 64 MiB of uint16; a killed run does at most so much again
Document = tuple[str, bool]  # the text, and whether it is held out


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
    if len(mixture.parse(spec)) > 1 or store.is_store(spec):
        raise UserError(
            f"{spec}: each source is tokenized apart; the folders are mixed when they are trained "
            f'on: --data.text "{store.PREFIX}FOLDER=0.7,{store.PREFIX}OTHER=0.3"'
        )
    facts = _begun(spec, folder, tokenizer, skip_broken)
    if not facts["complete"]:
        _write(spec, folder, tokenizer, facts, skip_broken, part_tokens, progress)
    return store.open_store(f"{store.PREFIX}{folder}")


def _begun(spec: str, folder: Path, tokenizer: Tokenizer, skip_broken: bool) -> dict:
    """The facts of the store as far as it is written, or those of an empty one."""
    made_from = {
        "source": spec,
        "source_fingerprint": sources.source_fingerprint(spec),
        "skip_broken": skip_broken,
    }
    if (folder / "store.json").is_file():
        facts = store.read_facts(folder)
        other = [name for name, value in made_from.items() if facts.get(name) != value]
        if tokenizer_digest(folder) != facts["tokenizer"] or load_tokenizer(folder) != tokenizer:
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
    save_tokenizer(tokenizer, folder)
    facts = {
        "format": store.FORMAT,
        "dtype": "uint16" if tokenizer.vocab_size <= 2**16 else "uint32",
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer_digest(folder),
        **made_from,
        "complete": False,
        "parts": [],
    }
    _save(folder, facts)
    return facts


def _save(folder: Path, facts: dict) -> None:
    files.write_text(folder / "store.json", json.dumps(facts, indent=1) + "\n")


def _write(
    spec: str,
    folder: Path,
    tokenizer: Tokenizer,
    facts: dict,
    skip_broken: bool,
    part_tokens: int,
    progress: Callable[[int], None],
) -> None:
    left_out: collections.Counter = collections.Counter()
    documents = sources.documents(spec, left_out, skip_broken=skip_broken)
    behind = sum(part[name][1] for part in facts["parts"] for name in ("train", "test"))
    for _ in range(behind):
        next(documents)
    chunks = in_chunks((text for _, text in documents), len)
    made = ahead(lambda chunk: (encode_documents(chunk, tokenizer), _held_out(chunk)), chunks)
    try:
        part = _Part(folder, facts)
        for _, (encoded, draws) in made:
            progress(part.add(encoded, draws))
            if part.tokens >= part_tokens:
                facts["parts"].append(part.close())
                _save(folder, facts)
                part = _Part(folder, facts)
        last = part.close()
    except OSError as error:
        raise files.unwritable(folder, error) from error
    if last["train"][1] or last["test"][1]:
        facts["parts"].append(last)
    else:
        for name in last["files"]:
            (folder / name).unlink()
    if not sum(part["train"][1] for part in facts["parts"]):
        raise UserError(f"{spec}: there is no document to train on in it; give more text.")
    facts |= {"complete": True, "left_out": dict(+left_out)}
    _save(folder, facts)


def _held_out(texts: list[str]) -> list[float | None]:
    """The draw of each held-out document; None for one that is trained on."""
    rows = [{"text": text} for text in texts]
    return [split.draw(row) if split.held_out(row) else None for row in rows]


class _Part:
    """The files of one part while they are written, under names that end in .partial."""

    def __init__(self, folder: Path, facts: dict):
        self._folder, self._number = folder, len(facts["parts"])
        self._dtype = store.TYPES[facts["dtype"]]
        self._counts = {"train": [0, 0], "test": [0, 0]}
        names = [f"{name}.{kind}" for name in self._counts for kind in ("tokens", "documents")]
        self._files = {name: _Summed(self._path(name)) for name in (*names, "test.draws")}

    @property
    def tokens(self) -> int:
        return self._counts["train"][0]

    def _path(self, name: str) -> Path:
        return self._folder / f"{self._number:05}.{name}"

    def add(self, encoded: list[np.ndarray], draws: list[float | None]) -> int:
        """Writes documents; returns how many tokens they have."""
        total = 0
        for name in self._counts:
            some = [
                ids
                for ids, draw in zip(encoded, draws, strict=True)
                if (draw is None) == (name == "train")
            ]
            if not some:
                continue
            ends = self._counts[name][0] + np.cumsum([len(ids) for ids in some])
            self._files[f"{name}.tokens"].write(np.concatenate(some).astype(self._dtype))
            self._files[f"{name}.documents"].write(ends.astype("<i8"))
            self._counts[name][0] = int(ends[-1])
            self._counts[name][1] += len(some)
            total += sum(len(ids) for ids in some)
        found = [draw for draw in draws if draw is not None]
        self._files["test.draws"].write(np.array(found, "<f8"))
        return total

    def close(self) -> dict:
        """Gives the files their names; returns what store.json says of the part."""
        sums = {self._path(name).name: file.close() for name, file in self._files.items()}
        return {**self._counts, "files": sums}


class _Summed:
    """A file that is summed up as it is written."""

    def __init__(self, path: Path):
        self._path, self._partial = path, path.with_name(path.name + ".partial")
        self._file: BinaryIO = open(self._partial, "wb")  # noqa: SIM115 (closed by `close`)
        self._digest, self._size = hashlib.sha256(), 0

    def write(self, array: np.ndarray) -> None:
        data = array.tobytes()
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)

    def close(self) -> tuple[int, str]:
        """(bytes, checksum) of the file, which is now on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._partial, self._path)
        return self._size, self._digest.hexdigest()


def bytes_on_disk(spec: str) -> dict[Path, int]:
    """The sizes of the files of a source, by which its progress is measured; of a data set none."""
    if spec == sources.MICROWORLD or spec.startswith(("tfds:", "hf:")):
        return {}
    sizes = {}
    for path in named_files.paths(spec):
        with unpacked.readable(path):
            sizes[path] = unpacked.size_of(path)
    return sizes
