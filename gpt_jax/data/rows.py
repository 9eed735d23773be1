"""What a language model is pretrained on, as rows behind `pipeline.make_batch_at`.

Documents of files and data sets are packed in memory; token shards are read in place; several
sources by weight are visited in their shares. A stage sees no difference.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from gpt_jax.data import mixture, pipeline, store
from gpt_jax.data.config import DataConfig
from gpt_jax.data.mixed import Mixed, Source
from gpt_jax.data.packing import pack_documents, pack_pieces
from gpt_jax.errors import UserError
from gpt_jax.text.tokenizer import Tokenizer


def language_rows(data: DataConfig, split: str, tokenizer: Tokenizer, length: int) -> Any:
    """Rows of `length` tokens of the documents of one split.

    Args:
      data: names the sources.
      split: `train`, or `test`, of which all rows are in memory.
      tokenizer: of the model; that of token shards must be the same.
      length: of a row.

    Returns:
      A `Batch` of arrays, `store.TokenRows`, or a `Mixed` of these: what `pipeline.take` knows.
    """
    spec, part = data.named("text", split)
    sources = mixture.parse(spec)
    made = [_rows(data, source.spec, part, tokenizer, length) for source in sources]
    if len(made) == 1:
        return made[0]
    if split == "test":
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *made)
    return Mixed(
        tuple(
            Source(source.spec, rows, pipeline.count(rows), learned_tokens(rows), source.share)
            for source, rows in zip(sources, made, strict=True)
        )
    )


def learned_tokens(rows: Any) -> int:
    """How many tokens are learned from in one pass."""
    return rows.learned if isinstance(rows, store.TokenRows) else int(rows.weights_BT.sum())


def _rows(data: DataConfig, spec: str, part: str, tokenizer: Tokenizer, length: int) -> Any:
    if not store.is_store(spec):
        return pack_documents(data.read_source(spec, "text", part).rows, tokenizer, length)
    shards = store.open_store(spec)
    if shards.tokenizer() != tokenizer:
        raise UserError(
            f"{spec}: another tokenizer made these tokens; train a model with it, or make the "
            "shards anew with --tokenizer and the folder of this one's run"
        )
    if part in ("test", "held_out"):
        return pack_pieces(shards.held_out(), length, tokenizer.pad_id)
    some = tuple(shard for shard in shards.shards(part) if shard.tokens)
    return store.TokenRows(some, length, tokenizer.pad_id)


def tokenizer_of_shards(data: DataConfig) -> Tokenizer | None:
    """The tokenizer that the token shards to be trained on were made with; None without any."""
    specs = [source.spec for source in mixture.parse(data.named("text", "train")[0])]
    stores = [store.open_store(spec) for spec in specs if store.is_store(spec)]
    return stores[0].tokenizer() if stores else None
