"""Many documents -> tokens, with all cores: the `tokenizers` library encodes a batch in parallel.

One document at a time keeps one core busy, and calls the library a million times for a gigabyte.
Two batches are under way at once, so that the cores that are done with one go on with the next
while Python reads documents and gathers tokens.
"""

from __future__ import annotations

import collections
import concurrent.futures
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.text import chat
from gpt_jax.text.tokenizer import Tokenizer

Item = TypeVar("Item")
Made = TypeVar("Made")

CHUNK_CHARACTERS, CHUNK_ITEMS = 2**21, 4096
UNDER_WAY = 2  # batches


def encode_documents(texts: Sequence[str], tokenizer: Tokenizer) -> list[np.ndarray]:
    """`chat.render_document` of every text, as int32 arrays, by the library's batch encoder."""
    return [np.array(ids, np.int32) for ids in chat.render_documents(texts, tokenizer)]


def in_chunks(items: Iterable[Item], size: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Yields lists of items that go well into one batch; where they end depends on nothing else."""
    chunk, characters = [], 0
    for item in items:
        chunk.append(item)
        characters += size(item)
        if characters >= CHUNK_CHARACTERS or len(chunk) >= CHUNK_ITEMS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[tuple[Item, Made]]:
    """Yields (item, what is made of it) in order, while the next ones are made in threads."""
    with concurrent.futures.ThreadPoolExecutor(UNDER_WAY) as threads:
        pending: collections.deque = collections.deque()
        for item in items:
            pending.append((item, threads.submit(make, item)))
            if len(pending) > UNDER_WAY:
                item, future = pending.popleft()
                yield item, future.result()
        for item, future in pending:
            yield item, future.result()


def encode_all(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Yields `chat.render_document` of every text, in order."""
    chunks = in_chunks(texts, len)
    made = ahead(lambda chunk: encode_documents(chunk, tokenizer), chunks)
    return itertools.chain.from_iterable(ids for _, ids in made)


def tokenizer_digest(folder: Path) -> str:
    """A number for the tokenizer that a folder holds.

    Raises:
      UserError: if there is none.
    """
    names = ("tokenizer.json", "tokenizer_config.json")  # the second is not always there
    digest = hashlib.sha256()
    try:
        for path in (
            folder / name for name in names if name == names[0] or (folder / name).exists()
        ):
            digest.update(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{folder}/tokenizer.json: it cannot be read ({error.strerror}); make the token shards "
            "anew with experiments.tokenize."
        ) from error
    return digest.hexdigest()
