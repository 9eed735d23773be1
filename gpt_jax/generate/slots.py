"""What an engine keeps on the devices, and the two programs that change it: prefill and decode.

A slot is a row of the cache with what is known of the request in it. Everything in which two
requests differ is in arrays, so that the two programs are compiled once: temperatures, filters,
penalties, biases, keys. Slots stand at places of their own, and one that has ended leaves its
tokens in the cache, where a later request that begins alike finds them.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax import keys
from gpt_jax.data.batches import Tokens
from gpt_jax.errors import UserError
from gpt_jax.generate.cache import put_rows, take_rows
from gpt_jax.generate.drawing import Drawing, draw
from gpt_jax.generate.sampler import allowed, padding_only
from gpt_jax.models.cache import KVCache
from gpt_jax.models.contract import Model, Params, forward, init_cache
from gpt_jax.models.heads import last_logits


class Program(NamedTuple):
    """What is static of both programs.

    Attributes:
      model: the shape.
      stop_ids, pad_id, vocab_size: of the tokenizer, as for `sampler.generate`.
      top: how many of the most likely tokens can be reported.
    """

    model: Model
    stop_ids: tuple[int, ...]
    pad_id: int
    vocab_size: int
    top: int


class Slots(NamedTuple):
    """B requests at once.

    Attributes:
      cache: of B rows and S places.
      drawing: how every row draws.
      bias_BV: float32, added to the logits.
      prompted_BV: bool, which tokens the prompt has.
      counts_BV: int32, how often a token was drawn.
      token_B: int32, the last token, which is not in the cache yet.
      drawn_B: int32, how many were drawn.
      left_B: int32, how many more may be drawn; of a row that does not run 0.
    """

    cache: KVCache
    drawing: Drawing
    bias_BV: jax.Array
    prompted_BV: jax.Array
    counts_BV: jax.Array
    token_B: jax.Array
    drawn_B: jax.Array
    left_B: jax.Array


class Chunk(NamedTuple):
    """The next tokens of some prompts, R rows of T.

    Attributes:
      ids_RT: int32, right-padded.
      counts_R: int32, how many of them are real; at least one.
      starts_R: int32, how many of the prompt's tokens are in the cache already.
      sources_R: int32, the slot in whose row these are.
      targets_R: int32, the slot that the request has; B where the row is empty.
      last_R: bool, whether the prompt ends here, so that the first token is drawn.
      limits_R: int32, how many tokens may be drawn.
      seeds_R, names_R: uint32, of the draws.
      drawing_R: how the row draws; its keys are made here.
      bias_RV, prompted_RV: as those of Slots.
      mask_RW: uint32, bits of the tokens that may be drawn first.
    """

    ids_RT: jax.Array
    counts_R: jax.Array
    starts_R: jax.Array
    sources_R: jax.Array
    targets_R: jax.Array
    last_R: jax.Array
    limits_R: jax.Array
    seeds_R: jax.Array
    names_R: jax.Array
    drawing_R: Drawing
    bias_RV: jax.Array
    prompted_RV: jax.Array
    mask_RW: jax.Array


class Drawn(NamedTuple):
    """What was drawn; K steps of B rows, or the first tokens of R rows.

    Attributes:
      ids: int32 tokens.
      logprobs: float32, before any filter.
      valid: bool, whether the row drew one.
      top_ids, top_logprobs: of the most likely tokens, on a last axis.
    """

    ids: jax.Array
    logprobs: jax.Array
    valid: jax.Array
    top_ids: jax.Array
    top_logprobs: jax.Array


@functools.partial(jax.jit, static_argnums=(0, 1, 2))  # so that no two arrays are one buffer
def empty(model: Model, rows: int, places: int) -> Slots:
    """Slots without a request.

    Raises:
      UserError: if the model does not keep its past as keys and values.
    """
    cache = init_cache(model, rows, places)
    if not isinstance(cache, KVCache):
        raise UserError(
            f"the engine takes decoders with a key/value cache, not {type(model).__name__}; use "
            "`complete`"
        )
    shape_BV, zeros_B = (rows, model.vocab_size), jnp.zeros(rows, jnp.int32)
    return Slots(
        cache,
        Drawing.neutral(rows),
        jnp.zeros(shape_BV),
        jnp.zeros(shape_BV, bool),
        jnp.zeros(shape_BV, jnp.int32),
        *(zeros_B, zeros_B, zeros_B),
    )


@functools.partial(jax.jit, static_argnames="program", donate_argnames="slots")
def prefill(program: Program, params: Params, slots: Slots, chunk: Chunk) -> tuple[Slots, Drawn]:
    """Reads the next tokens of some prompts, and draws the first token after those that end.

    What a request shares with the row of `sources_R` is copied from there, and not read again.
    """
    model, (R, T) = program.model, chunk.ids_RT.shape
    cache = take_rows(model, slots.cache, chunk.sources_R)
    places_S, places_T = (jnp.arange(n) for n in (cache.segment_ids_BS.shape[1], T))
    cache = KVCache(
        cache.entries,
        (places_S < chunk.starts_R[:, None]).astype(jnp.int32),
        chunk.starts_R,
    )
    real_RT = places_T < chunk.counts_R[:, None]
    positions_RT = (chunk.starts_R[:, None] + places_T) * real_RT
    tokens_RT = Tokens(chunk.ids_RT, positions_RT, real_RT.astype(jnp.int32))
    hidden_RTD, cache = forward(model, params, tokens_RT, cache)
    cache = cache._replace(index_B=chunk.starts_R + chunk.counts_R)

    def put(x_B: jax.Array, new_R: jax.Array) -> jax.Array:
        return x_B.at[chunk.targets_R].set(new_R, mode="drop")

    named = jax.vmap(lambda seed, name: jax.random.fold_in(keys.derive(seed, 0, "complete"), name))
    drawing_R = chunk.drawing_R._replace(keys_B=named(chunk.seeds_R, chunk.names_R))
    zeros_R = jnp.zeros(R, jnp.int32)
    rows = Slots(
        cache,
        drawing_R,
        chunk.bias_RV,
        chunk.prompted_RV,
        jnp.zeros(chunk.bias_RV.shape, jnp.int32),
        *(zeros_R, zeros_R, chunk.limits_R * chunk.last_R),
    )
    last_R1 = (chunk.counts_R - 1)[:, None]
    hidden_RD = jnp.take_along_axis(hidden_RTD, last_R1[..., None], axis=1)[:, 0]
    rows, drawn = _next(program, params, rows, hidden_RD, chunk.mask_RW)
    more = jax.tree.map(put, slots._replace(cache=()), rows._replace(cache=()))
    return more._replace(cache=put_rows(model, slots.cache, rows.cache, chunk.targets_R)), drawn


@functools.partial(jax.jit, static_argnames=("program", "most"), donate_argnames="slots")
def decode(
    program: Program,
    params: Params,
    slots: Slots,
    *,
    most: int,
    steps: jax.Array,
    keep_B: jax.Array,
    mask_BW: jax.Array,
) -> tuple[Slots, Drawn]:
    """Up to `steps` tokens more of every row that runs; less where all have ended.

    Args:
      program, params, slots: the engine's.
      most: static, of the steps of any call.
      steps: int32, of this one.
      keep_B: bool; a row without it ends here, as its request was withdrawn.
      mask_BW: uint32, bits of the tokens that may be drawn.

    Returns:
      The slots, and what was drawn, (most, B).
    """
    slots = slots._replace(left_B=jnp.where(keep_B, slots.left_B, 0))

    def step(carry: tuple) -> tuple:
        number, slots, drawn = carry
        running_B = slots.left_B > 0
        before = slots.cache.index_B
        tokens_B1 = Tokens(
            *(x[:, None] for x in (slots.token_B, before, running_B.astype(jnp.int32)))
        )
        hidden_B1D, cache = forward(program.model, params, tokens_B1, slots.cache)
        cache = cache._replace(index_B=jnp.where(running_B, cache.index_B, before))
        slots, now = _next(program, params, slots._replace(cache=cache), hidden_B1D[:, 0], mask_BW)
        drawn = jax.tree.map(lambda all, new: all.at[number].set(new), drawn, now)
        return number + 1, slots, drawn

    def goes_on(carry: tuple) -> jax.Array:
        number, slots, _ = carry
        return (number < steps) & (slots.left_B > 0).any()

    B = len(slots.token_B)
    nothing = Drawn(
        *(jnp.zeros((most, B), dtype) for dtype in (jnp.int32, jnp.float32, bool)),
        *(jnp.zeros((most, B, program.top), dtype) for dtype in (jnp.int32, jnp.float32)),
    )
    _, slots, drawn = jax.lax.while_loop(goes_on, step, (jnp.int32(0), slots, nothing))
    return slots, drawn


def _next(
    program: Program,
    params: Params,
    slots: Slots,
    hidden_BD: jax.Array,
    mask_BW: jax.Array,
) -> tuple[Slots, Drawn]:
    """Draws a token after each hidden state; of rows that do not run nothing changes."""
    running_B = slots.left_B > 0
    logits_BV = allowed(
        last_logits(program.model, params, hidden_BD),
        padding_only(program.pad_id, program.stop_ids),
        program.vocab_size,
    )
    past = (slots.bias_BV, slots.prompted_BV, slots.counts_BV)
    token_B, logprob_B, tops = draw(
        logits_BV, slots.drawing, slots.drawn_B, past=past, mask_BW=mask_BW, top=program.top
    )
    token_B = jnp.where(running_B, token_B, slots.token_B)
    ended_B = jnp.isin(token_B, jnp.array(program.stop_ids, jnp.int32))
    slots = slots._replace(
        token_B=token_B,
        counts_BV=slots.counts_BV.at[jnp.arange(len(token_B)), token_B].add(
            running_B.astype(jnp.int32)
        ),
        drawn_B=slots.drawn_B + running_B,
        left_B=jnp.where(ended_B, 0, jnp.maximum(slots.left_B - 1, 0)),
    )
    return slots, Drawn(token_B, logprob_B, running_B, *tops)
