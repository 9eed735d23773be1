"""Texts as vectors, by a sentence encoder or by the hidden states of a language model.

    embed = open_encoder("hf:sentence-transformers/all-MiniLM-L6-v2")
    vectors_BD = embed(["How old is Fada?", "The lighthouse of Fada was built in 1884."])

Either is an `Embedder`, which retrieval and the server take. A text's vector depends on nothing
that is embedded beside it.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from gpt_jax.data import pipeline
from gpt_jax.data.batches import Tokens, pad_prompts
from gpt_jax.errors import UserError
from gpt_jax.generate.text import TextModel
from gpt_jax.models.contract import Model, Params, forward
from gpt_jax.models.encoder import Encoder, Pooling, encode, of_length_one, pooled
from gpt_jax.models.foreign.bert import open_sentences
from gpt_jax.parallel import rules
from gpt_jax.text import folders

ROWS = 16  # that are embedded together
NARROWEST = 16

Input = str | list[int]  # a text, or its tokens, which are read as they are


class Read(NamedTuple):
    """Texts as tokens.

    Attributes:
      rows: ids of every text.
      cut: the numbers of the texts, from 0, of which the end is not read.
    """

    rows: list[list[int]]
    cut: list[int]


class Embedded(NamedTuple):
    """Texts as vectors.

    Attributes:
      vectors_BD: float32.
      tokens: how many were read of all texts.
      cut: as in `Read`.
    """

    vectors_BD: np.ndarray
    tokens: int
    cut: list[int]


@dataclasses.dataclass(frozen=True, eq=False)
class Embedder:
    """What makes vectors of texts.

    Attributes:
      read: texts or ids -> `Read`.
      vectors: tokens_BT -> vectors_BD, compiled for every shape.
      width: D.
      longest: the most tokens of a text.
      pad_id: fills rows.
      mesh: where the parameters lie; None: on one device.
    """

    read: Callable[[Sequence[Input]], Read]
    vectors: Callable[[Tokens], jax.Array]
    width: int
    longest: int
    pad_id: int
    mesh: Mesh | None = None

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """vectors_BD; texts that are cut are told of on standard error."""
        found = self.embed(texts)
        if found.cut:
            some = f"{len(found.cut):,} of {len(texts):,} texts"
            why = f"have more than {self.longest} tokens; of these only the beginning is embedded"
            print(some, why, file=sys.stderr)
        return found.vectors_BD

    def embed(self, inputs: Sequence[Input]) -> Embedded:
        """Vectors, and what was read.

        Raises:
          UserError: naming the first text that cannot be read.
        """
        rows, cut = self.read(inputs)
        found_BD = np.zeros((len(rows), self.width), np.float32)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for start in range(0, len(order), ROWS):
            some = order[start : start + ROWS]
            found_BD[some] = self._batch([rows[i] for i in some])[: len(some)]
        return Embedded(found_BD, sum(map(len, rows)), cut)

    def _batch(self, rows: list[list[int]]) -> np.ndarray:
        """Vectors of rows in one of few shapes: a power of two of rows, and up to four widths
        between two powers of two."""
        longest = max(map(len, rows))
        step = max(NARROWEST, (1 << (longest - 1).bit_length()) // 8)
        width = min(self.longest, -(-longest // step) * step)
        count = 1 << (len(rows) - 1).bit_length()
        count += -count % rules.shards(self.mesh, "batch") if self.mesh else 0
        prompts = pad_prompts(rows + rows[-1:] * (count - len(rows)), width, self.pad_id)
        if self.mesh is None:
            return np.asarray(self.vectors(prompts.tokens_BP))
        (batch,) = pipeline.in_order({"prompts": prompts}, count, self.mesh)
        with jax.set_mesh(self.mesh):
            return np.asarray(self.vectors(batch["prompts"].tokens_BP))


def embedder(model: TextModel) -> Embedder:
    """A language model's: the mean of the last layer's hidden states over a text's tokens.

    Vectors have the length 1. A text beyond the context is a UserError.
    """
    context, V = model.config.context_length, model.config.vocab_size

    def read(inputs: Sequence[Input]) -> Read:
        texts = [one for one in inputs if isinstance(one, str)]
        rows = _rows(inputs, model.tokenizer.encode_batch(texts), V)
        for number, ids in enumerate(rows, 1):
            if not 0 < len(ids) <= context:
                raise UserError(
                    f"text {number} has {len(ids)} tokens, but must have 1 to {context}; cut it"
                )
        return Read(rows, [])

    vectors = functools.partial(_means, model.config, model.params)
    pad = model.tokenizer.pad_id
    return Embedder(read, vectors, model.config.width, context, pad, model.mesh)


@functools.partial(jax.jit, static_argnums=0)
def _means(model: Model, params: Params, tokens_BT: Tokens) -> jax.Array:
    hidden_BTD, _ = forward(model, params, tokens_BT)
    return of_length_one(pooled(hidden_BTD, tokens_BT.segment_ids, "mean"))


def open_encoder(where: str | Path, mesh: Mesh | None = None) -> Embedder:
    """A sentence encoder's (Reimers & Gurevych 2019).

    Of a text beyond the most tokens that its files name the beginning is read, and `cut` has it.

    Args:
      where: what `open_sentences` reads: a folder, or hf:ORG/NAME.
      mesh: where to put it; None: on one device.

    Raises:
      UserError: naming the file, key or tensor that is missing or cannot be loaded.
    """
    found = open_sentences(where)
    path, V = found.folder / "tokenizer.json", found.model.vocab_size
    if not path.is_file():
        raise UserError(f"{path} is missing; download it")
    backend = folders.find(path).backend
    backend.no_padding()
    backend.enable_truncation(found.longest)
    backend.encode_special_tokens = True  # a text that spells [SEP] has no such token
    if (highest := max(backend.get_vocab().values())) >= V:
        raise UserError(
            f"{path} has the id {highest}, but the encoder only {V} tokens; one of them is another "
            "model's"
        )

    def read(inputs: Sequence[Input]) -> Read:
        texts = [one.lower() if found.lowercase else one for one in inputs if isinstance(one, str)]
        encoded = backend.encode_batch(texts)
        rows = _rows(inputs, [one.ids for one in encoded], V)
        long = iter([bool(one.overflowing) for one in encoded])
        cut = [next(long) if isinstance(x, str) else len(x) > found.longest for x in inputs]
        return Read([ids[: found.longest] for ids in rows], [i for i, was in enumerate(cut) if was])

    params = found.load(mesh)
    vectors = functools.partial(_pooled, found.model, found.pooling, found.normalized, params)
    return Embedder(read, vectors, found.model.width, found.longest, pad_id=0, mesh=mesh)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _pooled(
    model: Encoder, pooling: Pooling, normalized: bool, params: Params, tokens_BT: Tokens
) -> jax.Array:
    vectors_BD = pooled(encode(model, params, tokens_BT), tokens_BT.segment_ids, pooling)
    return of_length_one(vectors_BD) if normalized else vectors_BD


def _rows(
    inputs: Sequence[Input], encoded: Sequence[list[int]], vocab_size: int
) -> list[list[int]]:
    """Ids of every input, of which the texts are encoded.

    Raises:
      UserError: naming the first of the others that is no row of tokens.
    """
    texts = iter(encoded)
    rows = [next(texts) if isinstance(one, str) else one for one in inputs]
    for number, ids in enumerate(rows, 1):
        if not ids or not 0 <= min(ids) <= max(ids) < vocab_size:
            raise UserError(f"text {number} must have tokens, each of them 0 to {vocab_size - 1}")
    return rows
