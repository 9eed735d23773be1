"""Texts as vectors: the mean of a language model's hidden states."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.data.batches import Tokens, pad_prompts
from gpt_jax.errors import UserError
from gpt_jax.generate.text import TextModel
from gpt_jax.models.contract import Model, Params, forward

NARROWEST = 32
ROWS = 16


def embedder(model: TextModel) -> Callable[[Sequence[str]], np.ndarray]:
    """`texts -> vectors_BD` float32 of length 1.

    Each is the mean of the last layer's hidden states over the text's tokens, scaled to length 1,
    so that a product of two is their cosine. Raises a UserError for a text beyond the context.
    """

    def embed(texts: Sequence[str]) -> np.ndarray:
        context = model.config.context_length
        rows = model.tokenizer.encode_batch(list(texts))
        for number, ids in enumerate(rows, 1):
            if not 0 < len(ids) <= context:
                raise UserError(
                    f"text {number} has {len(ids)} tokens, but must have 1 to {context}; cut it"
                )
        found = np.zeros((len(rows), model.config.width), np.float32)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for start in range(0, len(order), ROWS):
            some = order[start : start + ROWS]
            longest = len(rows[some[-1]])
            width = min(context, max(NARROWEST, 1 << (longest - 1).bit_length()))
            filled = [rows[i] for i in some] + [rows[some[-1]]] * (ROWS - len(some))
            prompts = pad_prompts(filled, width, model.tokenizer.pad_id)
            vectors = _means(model.config, model.params, prompts.tokens_BP)
            found[some] = np.asarray(vectors)[: len(some)]
        return found

    return embed


@functools.partial(jax.jit, static_argnums=0)
def _means(config: Model, params: Params, tokens_BT: Tokens) -> jax.Array:
    """vectors_BD float32 of length 1."""
    hidden_BTD, _ = forward(config, params, tokens_BT)
    real_BT1 = (tokens_BT.segment_ids > 0)[:, :, None]
    mean_BD = jnp.where(real_BT1, hidden_BTD.astype(jnp.float32), 0.0).sum(1) / real_BT1.sum(1)
    return mean_BD / jnp.linalg.norm(mean_BD, axis=1, keepdims=True)
