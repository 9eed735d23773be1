"""Drawing a token for rows that each have settings of their own: `Sampling` as arrays.

    logits -> penalties -> bias -> mask -> / temperature -> filters -> token

What no row asks for is not computed. Where the settings are those of one `Sampling` for all rows,
the tokens are those that `sampler.generate` draws.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Drawing(NamedTuple):
    """How each of B rows draws; see `Sampling` for what the numbers mean.

    Attributes:
      keys_B: a random key of every row; its t-th token is drawn with fold_in(key, t).
      temperature_B, top_p_B, min_p_B: float32.
      top_k_B: int32; 0: all.
      repetition_B, presence_B, frequency_B: float32, the penalties; neutral are 1, 0 and 0.
      tops_B: bool, whether the most likely tokens are to be reported.
    """

    keys_B: jax.Array
    temperature_B: jax.Array
    top_k_B: jax.Array
    top_p_B: jax.Array
    min_p_B: jax.Array
    repetition_B: jax.Array
    presence_B: jax.Array
    frequency_B: jax.Array
    tops_B: jax.Array

    @classmethod
    def neutral(cls, rows: int) -> Drawing:
        """Each row's own distribution."""
        ones_B, zeros_B = jnp.ones(rows), jnp.zeros(rows)
        return cls(
            keys_B=jax.random.split(jax.random.key(0), rows),
            temperature_B=ones_B,
            top_k_B=jnp.zeros(rows, jnp.int32),
            top_p_B=jnp.ones(rows),
            min_p_B=zeros_B,
            repetition_B=jnp.ones(rows),
            presence_B=jnp.zeros(rows),
            frequency_B=jnp.zeros(rows),
            tops_B=jnp.zeros(rows, bool),
        )


def draw(
    logits_BV: jax.Array,
    drawing: Drawing,
    drawn_B: jax.Array,
    *,
    past: tuple[jax.Array, jax.Array, jax.Array],
    mask_BW: jax.Array,
    top: int,
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, jax.Array]]:
    """One token of every row.

    Args:
      logits_BV: float32; -inf where a token is never drawn.
      drawing: of the rows.
      drawn_B: int32, how many tokens each row has drawn before.
      past: bias_BV, prompted_BV and counts_BV, as `slots.Slots` has them.
      mask_BW: uint32; bit i of word w is whether token 32 w + i may be drawn.
      top: how many of the most likely tokens are reported, static.

    Returns:
      token_B int32, its log-probability float32 before any filter, and the ids and
      log-probabilities of the most likely tokens, (B, top), zeros where no row asks.
    """
    bias_BV, prompted_BV, counts_BV = past
    logits_BV = _if(
        (drawing.repetition_B != 1) | (drawing.presence_B != 0) | (drawing.frequency_B != 0),
        lambda logits_BV: penalised(logits_BV, drawing, prompted_BV, counts_BV),
        logits_BV,
    )
    logits_BV = logits_BV + bias_BV
    logits_BV = _if(
        mask_BW != jnp.uint32(0xFFFFFFFF),
        lambda logits_BV: jnp.where(_bits(mask_BW, logits_BV.shape[-1]), logits_BV, -jnp.inf),
        logits_BV,
    )
    greedy_B = drawing.temperature_B == 0
    scale_B1 = jnp.where(greedy_B, 1.0, drawing.temperature_B)[:, None]
    logp_BV = jax.nn.log_softmax(logits_BV / scale_B1, axis=-1)
    likeliest_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)

    def at_random(logp_BV: jax.Array) -> jax.Array:
        filtered_BV = _if(
            (drawing.top_k_B > 0) | (drawing.top_p_B < 1) | (drawing.min_p_B > 0),
            lambda logp_BV: filter_rows(logp_BV, drawing),
            logp_BV,
        )
        keys_B = jax.vmap(jax.random.fold_in)(drawing.keys_B, drawn_B)
        token_B = jax.vmap(jax.random.categorical)(keys_B, filtered_BV)
        return jnp.where(greedy_B, likeliest_B, token_B.astype(jnp.int32))

    token_B = jax.lax.cond(greedy_B.all(), lambda _: likeliest_B, at_random, logp_BV)
    logprob_B = jnp.take_along_axis(logp_BV, token_B[:, None], axis=-1)[:, 0]

    def most_likely(logp_BV: jax.Array) -> tuple[jax.Array, jax.Array]:
        values_BK, ids_BK = jax.lax.top_k(logp_BV, top)
        return ids_BK.astype(jnp.int32), values_BK

    shape_BK = (len(token_B), top)
    nothing = (jnp.zeros(shape_BK, jnp.int32), jnp.zeros(shape_BK))
    if not top:
        return token_B, logprob_B, nothing
    tops = jax.lax.cond(drawing.tops_B.any(), most_likely, lambda _: nothing, logp_BV)
    return token_B, logprob_B, tops


def penalised(
    logits_BV: jax.Array, drawing: Drawing, prompted_BV: jax.Array, counts_BV: jax.Array
) -> jax.Array:
    """Logits that are lower where a token was there before.

    Repetition (Keskar et al. 2019, section 4.1): of a token in the prompt or drawn before, a
    positive logit is divided by the penalty, a negative one multiplied. Presence and frequency, as
    OpenAI's API has them: subtracted once if the token was drawn before, and once for every time.
    """
    repetition_B1, presence_B1, frequency_B1 = (
        x[:, None] for x in (drawing.repetition_B, drawing.presence_B, drawing.frequency_B)
    )
    drawn_BV = counts_BV > 0
    repeated_BV = jnp.where(logits_BV > 0, logits_BV / repetition_B1, logits_BV * repetition_B1)
    logits_BV = jnp.where(prompted_BV | drawn_BV, repeated_BV, logits_BV)
    return logits_BV - presence_B1 * drawn_BV - frequency_B1 * counts_BV


def filter_rows(logp_BV: jax.Array, drawing: Drawing) -> jax.Array:
    """`sampling.filter_logprobs` with numbers that differ between rows."""
    V = logp_BV.shape[-1]
    ids_BV = jnp.argsort(-logp_BV, axis=-1, stable=True)
    sorted_BV = jnp.take_along_axis(logp_BV, ids_BV, axis=-1)
    k_B1 = jnp.where(drawing.top_k_B > 0, drawing.top_k_B, V)[:, None]
    sorted_BV = jnp.where(jnp.arange(V) < k_B1, sorted_BV, -jnp.inf)
    probs_BV = jax.nn.softmax(sorted_BV, axis=-1)
    before_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV
    p_B1 = drawing.top_p_B[:, None]
    inside_BV = ((before_BV < p_B1) | (p_B1 >= 1)).at[:, 0].set(True)
    sorted_BV = jnp.where(inside_BV, sorted_BV, -jnp.inf)
    least_B1 = sorted_BV[:, :1] + jnp.log(drawing.min_p_B)[:, None]  # log 0 is -inf: all are more
    sorted_BV = jnp.where(sorted_BV < least_B1, -jnp.inf, sorted_BV)
    rows_B1 = jnp.arange(len(logp_BV))[:, None]
    return jnp.zeros_like(logp_BV).at[rows_B1, ids_BV].set(sorted_BV)


def _if(wanted: jax.Array, change, x: jax.Array) -> jax.Array:
    """change(x) if anything is wanted, else x."""
    return jax.lax.cond(wanted.any(), change, lambda x: x, x)


def _bits(words_BW: jax.Array, size: int) -> jax.Array:
    """bool (B, size), from words of 32 bits."""
    bits_BWI = (words_BW[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
    return bits_BWI.reshape(len(words_BW), -1)[:, :size] == 1
