"""Token shards: text that does not fit in memory, tokenized once, and read in place.

A store is a folder, named `tokens:FOLDER` wherever a source is named:

    store.json              what it was made from, and of every file the size and the checksum
    tokenizer.json          the tokenizer that made the tokens
    00000.train.tokens      tokens, uint16 or uint32 (little end first), one document after another
    00000.train.documents   int64: where each document ends, in tokens
    00000.test.tokens, .documents, .draws   the held-out documents, divided as `split` divides all
                            sources; a draw is the number by which the used ones are chosen

A row of T tokens is a window on a shard. Windows overlap by one token, which is only context in the
second, so every token but a document's first is predicted exactly once, as in packed rows. Rows are
made when they are asked for: what is held in memory does not depend on the size of the store.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gpt_jax import files
from gpt_jax.data.batches import Batch, empty_tokens
from gpt_jax.data.encoding import tokenizer_digest
from gpt_jax.data.split import MOST_TEST_ROWS
from gpt_jax.errors import UserError
from gpt_jax.text import chat
from gpt_jax.text.tokenizer import Tokenizer

PREFIX = "tokens:"
FORMAT = 1
MEND = "make the token shards anew with experiments.tokenize"
TYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


def is_store(spec: str) -> bool:
    """Whether a spec names token shards."""
    return spec.startswith(PREFIX)


@dataclasses.dataclass(frozen=True)
class Shard:
    """The documents of one part of one split.

    Attributes:
      folder, name: the files are FOLDER/NAME.tokens and FOLDER/NAME.documents.
      dtype: of the tokens: uint16 or uint32.
      tokens, documents: how many there are.
    """

    folder: Path
    name: str
    dtype: str
    tokens: int
    documents: int

    def ids(self) -> np.ndarray:
        """All tokens, mapped: only what is looked at is read."""
        return _mapped(self.folder / f"{self.name}.tokens", TYPES[self.dtype], self.tokens)

    def ends(self) -> np.ndarray:
        """Where each document ends, mapped."""
        return _mapped(self.folder / f"{self.name}.documents", np.dtype("<i8"), self.documents)

    def draws(self) -> np.ndarray:
        """Of held-out documents the numbers by which some are chosen."""
        return _mapped(self.folder / f"{self.name}.draws", np.dtype("<f8"), self.documents)


@functools.lru_cache(maxsize=4096)
def _mapped(path: Path, dtype: np.dtype, count: int) -> np.ndarray:
    if not count:
        return np.zeros(0, dtype)
    try:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), count * dtype.itemsize, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: the file is shorter
        raise UserError(f"{path}: it is damaged ({error}); {MEND}.") from error
    # Rows are visited in random order: what lies beside them is not read for nothing.
    mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, dtype)


@dataclasses.dataclass(frozen=True)
class Store:
    """An open store; see `open_store`.

    Attributes:
      folder: where it lies.
      facts: what store.json holds.
      fingerprint: a number for all that it holds.
    """

    folder: Path
    facts: dict
    fingerprint: str

    def shards(self, split: str) -> list[Shard]:
        """Those of `train`, of `test`, or of `all`."""
        splits = ("train", "test") if split == "all" else (split,)
        return [
            Shard(self.folder, f"{number:05}.{name}", self.facts["dtype"], *part[name])
            for name in splits
            for number, part in enumerate(self.facts["parts"])
        ]

    def tokenizer(self) -> Tokenizer:
        """The one that made the tokens."""
        if tokenizer_digest(self.folder) != self.facts["tokenizer"]:
            raise UserError(f"{self.folder}/tokenizer.json has changed since; {MEND}.")
        return Tokenizer.load(self.folder)

    def held_out(self) -> Iterator[np.ndarray]:
        """The tokens of the held-out documents, at most `MOST_TEST_ROWS` of them."""
        shards = self.shards("test")
        draws = np.concatenate([shard.draws() for shard in shards] or [np.zeros(0)])
        owner = np.repeat(np.arange(len(shards)), [shard.documents for shard in shards])
        starts = np.cumsum([0, *(shard.documents for shard in shards)])
        for place in np.sort(np.argsort(draws, kind="stable")[:MOST_TEST_ROWS]):
            shard, number = shards[owner[place]], place - starts[owner[place]]
            begin = shard.ends()[number - 1] if number else 0
            yield np.array(shard.ids()[begin : shard.ends()[number]], np.int32)

    def held_out_texts(self) -> Iterator[str]:
        """The same as text."""
        tokenizer = self.tokenizer()
        for ids in self.held_out():
            yield chat.read(ids, tokenizer)

    def verify(self) -> None:
        """Compares every file with its checksum, which reads all of it.

        Raises:
          UserError: naming the first that has changed.
        """
        for name, (_, digest) in _files(self.facts):
            with open(self.folder / name, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise UserError(f"{self.folder / name}: it has changed since; {MEND}.")


def _files(facts: dict) -> Iterator[tuple[str, tuple[int, str]]]:
    for part in facts["parts"]:
        yield from part["files"].items()


def open_store(spec: str) -> Store:
    """The store that a spec names, once every file of it is seen to be there, with its size.

    Raises:
      UserError: if it is none, unfinished or damaged.
    """
    folder = Path(spec.removeprefix(PREFIX))
    if not os.path.isfile(folder / "store.json"):
        raise UserError(
            f"{spec}: there are no token shards here; write some: experiments.tokenize."
        )
    facts = read_facts(folder)
    if not facts["complete"]:
        raise UserError(
            f"{folder}: its token shards are not finished; run experiments.tokenize again, which "
            "goes on where it was."
        )
    digest = hashlib.sha256((folder / "store.json").read_bytes()).hexdigest()[:16]
    return Store(folder, facts, digest)


def read_facts(folder: Path) -> dict:
    """What store.json holds, checked; see `open_store`."""
    path = folder / "store.json"
    facts = files.read_json(path, MEND)
    try:
        right = facts["format"] == FORMAT and facts["dtype"] in TYPES and _right(facts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); {MEND}.") from error
    if not right:
        raise UserError(f"{path} is damaged, or of another version; {MEND}.")
    for name, (wanted, _) in _files(facts):
        there = (folder / name).stat().st_size if (folder / name).is_file() else None
        if there != wanted:
            found = "is missing" if there is None else f"has {there:,} bytes"
            raise UserError(f"{folder / name}: it {found}, where it had {wanted:,}; {MEND}.")
    return facts


def _right(facts: dict) -> bool:
    """Whether the files of a store are named as they must be, so that none leads out of the folder,
    and have the sizes of what is said to be in them."""
    size = TYPES[facts["dtype"]].itemsize
    for number, part in enumerate(facts["parts"]):
        sizes = {}
        for split in ("train", "test"):
            tokens, documents = part[split]
            if not all(isinstance(count, int) and count >= 0 for count in (tokens, documents)):
                return False
            sizes[f"{number:05}.{split}.tokens"] = size * tokens
            sizes[f"{number:05}.{split}.documents"] = 8 * documents
        sizes[f"{number:05}.test.draws"] = 8 * part["test"][1]
        if sizes != {name: bytes_of for name, (bytes_of, _) in part["files"].items()}:
            return False
    return isinstance(facts["complete"], bool)


@dataclasses.dataclass(frozen=True, eq=False)
class TokenRows:
    """Rows of T tokens of some shards, made when they are asked for.

    Attributes:
      shards: with at least one token.
      length: T.
      pad_id: fills the last row of a shard.
    """

    shards: tuple[Shard, ...]
    length: int
    pad_id: int

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        """How many rows there are up to the end of each shard."""
        return np.cumsum([max(1, -(-(s.tokens - 1) // (self.length - 1))) for s in self.shards])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def learned(self) -> int:
        """Tokens that are predicted in one pass: all but the first of each document."""
        return sum(shard.tokens - shard.documents for shard in self.shards)

    def take(self, numbers: np.ndarray) -> Batch:
        """The rows of these numbers."""
        shape = (len(numbers), self.length)
        tokens_BT = empty_tokens(shape, self.pad_id)
        weights_BT = np.zeros(shape, np.float32)
        for b, number in enumerate(numbers):
            owner = int(np.searchsorted(self._ends, number, side="right"))
            first = int(self._ends[owner - 1]) if owner else 0
            start = (int(number) - first) * (self.length - 1)
            ids_T, positions_T, segments_T = _window(self.shards[owner], start, self.length)
            tokens_BT.ids[b, : len(ids_T)] = ids_T
            tokens_BT.positions[b, : len(ids_T)] = positions_T
            tokens_BT.segment_ids[b, : len(ids_T)] = segments_T
            weights_BT[b, : len(ids_T)] = positions_T > 0
        return Batch(tokens_BT, weights_BT)


def _window(shard: Shard, start: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, positions within their documents' pieces, and documents' numbers from 1."""
    stop = min(start + length, shard.tokens)
    places = np.arange(start, stop)
    ends = shard.ends()
    first = int(np.searchsorted(ends, start, side="right"))
    some = np.array(ends[first : first + length])  # no row has more documents than tokens
    member = np.searchsorted(some, places, side="right")
    begins = np.concatenate([[start], some])[member]
    return shard.ids()[start:stop], places - begins, member + 1
