"""Speculative decoding: several tokens are guessed cheaply and checked in one forward pass.

A guess d from a distribution q is kept with probability min(1, p(d) / q(d)), where p is the
model's; in the place of the first that is not kept a token is drawn from max(0, p - q), normed, and
after guesses that are all kept one from p. What comes has exactly the model's distribution
(Leviathan et al. 2023, theorem 1; Chen et al. 2023).

Guesses come from a smaller model, or from the text itself: what followed the last time that its
last few tokens stood in it (Saxena 2023, "prompt lookup").
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.data.batches import Prompts, Tokens
from gpt_jax.errors import UserError
from gpt_jax.generate.sampler import Rollout, allowed, padding_only
from gpt_jax.models.cache import MAX_DECODE_TOKENS, KVCache
from gpt_jax.models.contract import Model, Params, for_decoding, forward, init_cache
from gpt_jax.models.heads import last_logits


class Draft(NamedTuple):
    """A smaller model with the same tokenizer; static is its `config` alone."""

    config: Model
    params: Params


class Passes(NamedTuple):
    """How well it went, int32 sums over all rows.

    Attributes:
      rounds: forward passes of the model, a row that had stopped not counted.
      guessed: tokens that were guessed.
      kept: guesses that were kept.
    """

    rounds: jax.Array
    guessed: jax.Array
    kept: jax.Array


class _State(NamedTuple):
    """The loop's carry; row b has drawn `drawn_B[b]` tokens, the last of which is in no cache."""

    cache: KVCache
    draft_cache: Any
    text_BS: jax.Array  # prompt and completion, left-padded, with room at the end
    logprobs_BC: jax.Array
    drawn_B: jax.Array
    stopped_B: jax.Array
    passes: Passes


def speculate(
    config: Model,
    params: Params,
    prompts: Prompts,
    key: jax.Array,
    *,
    max_new_tokens: int,
    stop_ids: tuple[int, ...],
    pad_id: int,
    temperature: float = 1.0,
    vocab_size: int | None = None,
    draft: Draft | None = None,
    ahead: int = 4,
    ngram: int = 2,
) -> tuple[Rollout, Passes]:
    """Completions as `sampler.generate` draws them, in distribution; at temperature 0 the same.

    Args:
      config, params, prompts, key, max_new_tokens, stop_ids, pad_id, temperature, vocab_size: as
        for `generate`.
      draft: what guesses; None: the text itself.
      ahead: static; how many tokens are guessed at a time.
      ngram: static; how many tokens must have stood in the text before.

    Raises:
      UserError: if `ahead` is not 1 to 7, or a model keeps no key/value cache.
    """
    if not 1 <= ahead < MAX_DECODE_TOKENS:
        raise UserError(f"ahead is {ahead}, but must be 1 to {MAX_DECODE_TOKENS - 1}")
    prompt_BP = prompts.tokens_BP
    prompt_BP = prompt_BP._replace(segment_ids=(prompt_BP.segment_ids != 0).astype(jnp.int32))
    (B, P), C, K = prompt_BP.ids.shape, max_new_tokens, ahead
    params = for_decoding(config, params)
    if draft is not None:
        draft = draft._replace(params=for_decoding(draft.config, draft.params))
    lengths_B = prompt_BP.segment_ids.sum(axis=1)
    keys_B = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(B))
    rows_B1 = jnp.arange(B)[:, None]
    banned_id = padding_only(pad_id, stop_ids)

    def probabilities(model: Model, weights: Params, hidden_BTD: jax.Array) -> jax.Array:
        """p_BTV float32; at temperature 0 all on the likeliest token."""

        def at(hidden_BD: jax.Array) -> jax.Array:
            return allowed(last_logits(model, weights, hidden_BD), banned_id, vocab_size)

        logits_TBV = jax.lax.map(at, hidden_BTD.swapaxes(0, 1))
        if temperature == 0.0:
            p_TBV = jax.nn.one_hot(logits_TBV.argmax(-1), logits_TBV.shape[-1])
        else:
            p_TBV = jax.nn.softmax(logits_TBV / temperature, axis=-1)
        return p_TBV.swapaxes(0, 1)

    def read(
        model: Model, weights: Params, cache: KVCache, ids_BT: jax.Array, state: _State, skip: int
    ) -> tuple[jax.Array, KVCache]:
        """The hidden states of T tokens behind the last but `skip` ones."""
        T = ids_BT.shape[1]
        positions_BT = (lengths_B + state.drawn_B - 1 + skip)[:, None] + jnp.arange(T)
        running_BT = jnp.broadcast_to(~state.stopped_B[:, None], (B, T)).astype(jnp.int32)
        return forward(model, weights, Tokens(ids_BT, positions_BT, running_BT), cache)

    def drawn_from(p_BV: jax.Array, count_B: jax.Array, purpose: int) -> jax.Array:
        """A token of every row; draws of one place are told apart by their purpose."""
        keys = jax.vmap(lambda k, t: jax.random.fold_in(jax.random.fold_in(k, t), purpose))
        return jax.vmap(jax.random.categorical)(keys(keys_B, count_B), jnp.log(p_BV))

    def guesses(state: _State, last_B1: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
        """d_BK, q_BKV and the draft's cache."""
        if draft is None:
            d_BK = _lookup(state.text_BS, P - lengths_B, P + state.drawn_B, ngram, K)
            return d_BK, jax.nn.one_hot(d_BK, config.vocab_size), None
        cache, ids_B1, found = state.draft_cache, last_B1, []
        for number in range(K + 1):  # the last guess is read, too, for when it is kept
            hidden_B1D, cache = read(draft.config, draft.params, cache, ids_B1, state, number)
            if number < K:
                q_BV = probabilities(draft.config, draft.params, hidden_B1D)[:, 0]
                ids_B1 = drawn_from(q_BV, state.drawn_B + number, 2)[:, None]
                found.append((ids_B1[:, 0], q_BV))
        d_KB, q_KBV = (jnp.stack(x) for x in zip(*found, strict=True))
        return d_KB.T, q_KBV.swapaxes(0, 1), cache

    def one_round(state: _State) -> _State:
        end_B1 = (P + state.drawn_B)[:, None]
        last_B1 = jnp.take_along_axis(state.text_BS, end_B1 - 1, axis=1)
        d_BK, q_BKV, draft_cache = guesses(state, last_B1)
        ids_BT = jnp.concatenate([last_B1, d_BK], axis=1)
        hidden_BTD, cache = read(config, params, state.cache, ids_BT, state, 0)
        p_BTV = probabilities(config, params, hidden_BTD)

        p_BK, q_BK = (
            jnp.take_along_axis(x[:, :K], d_BK[:, :, None], axis=2)[:, :, 0] for x in (p_BTV, q_BKV)
        )
        places_K = jnp.arange(K)
        chance = jax.vmap(
            lambda k, t: jax.random.uniform(jax.random.fold_in(jax.random.fold_in(k, t), 0))
        )
        u_BK = jax.vmap(lambda i: chance(keys_B, state.drawn_B + i), out_axes=1)(places_K)
        kept_B = jnp.cumprod(u_BK * q_BK < p_BK, axis=1).sum(axis=1)
        # Behind the last guess there is none: q is 0 there, and what is left over is p.
        q_BTV = jnp.pad(q_BKV, ((0, 0), (0, 1), (0, 0)))
        rest_BV = jnp.maximum(p_BTV - q_BTV, 0.0)[jnp.arange(B), kept_B]
        next_B = drawn_from(rest_BV, state.drawn_B + kept_B, 1)

        # Row b gets its kept guesses and one more, up to a stop token or the limit.
        places_T = jnp.arange(K + 1)
        new_BT = jnp.where(places_T < kept_B[:, None], ids_at(d_BK), next_B[:, None])
        is_stop_BT = jnp.isin(new_BT, jnp.array(stop_ids, jnp.int32))
        stop_B = jnp.where(is_stop_BT.any(axis=1), is_stop_BT.argmax(axis=1), K + 1)
        count_B = jnp.minimum(jnp.minimum(kept_B, stop_B) + 1, C - state.drawn_B)
        count_B = jnp.where(state.stopped_B, 0, count_B)
        real_BT = places_T < count_B[:, None]
        logp_BT = jnp.log(jnp.take_along_axis(p_BTV, new_BT[:, :, None], axis=2)[:, :, 0])

        at_BT = jnp.where(real_BT, end_B1 + places_T, state.text_BS.shape[1])
        drawn_B = state.drawn_B + count_B
        ended_B = (stop_B < count_B) & ~state.stopped_B
        running_B = ~state.stopped_B

        def moved(cache: KVCache, before: KVCache) -> KVCache:
            """What was guessed and not kept is behind the end, and overwritten."""
            return cache._replace(index_B=before.index_B + count_B)

        return _State(
            moved(cache, state.cache),
            None if draft is None else moved(draft_cache, state.draft_cache),
            state.text_BS.at[rows_B1, at_BT].set(new_BT, mode="drop"),
            state.logprobs_BC.at[rows_B1, at_BT - P].set(logp_BT, mode="drop"),
            drawn_B,
            state.stopped_B | ended_B | (drawn_B >= C),
            Passes(
                state.passes.rounds + running_B.sum(),
                state.passes.guessed + K * running_B.sum(),
                state.passes.kept + jnp.where(running_B, jnp.minimum(kept_B, count_B), 0).sum(),
            ),
        )

    def ids_at(d_BK: jax.Array) -> jax.Array:
        return jnp.pad(d_BK, ((0, 0), (0, 1)))

    def start(model: Model, weights: Params) -> tuple[jax.Array, KVCache]:
        cache = init_cache(model, B, P + C + K + 1)
        if not isinstance(cache, KVCache):
            raise UserError("speculation needs models with a key/value cache; use `generate`")
        return forward(model, weights, prompt_BP, cache)

    hidden_BPD, cache = start(config, params)
    p_BV = probabilities(config, params, hidden_BPD[:, -1:])[:, 0]
    first_B = drawn_from(p_BV, jnp.zeros(B, jnp.int32), 1)
    text_BS = jnp.pad(prompt_BP.ids, ((0, 0), (0, C + K + 1)), constant_values=pad_id)
    logp_B = jnp.log(jnp.take_along_axis(p_BV, first_B[:, None], axis=1)[:, 0])
    zero = jnp.zeros((), jnp.int32)
    state = _State(
        cache,
        None if draft is None else start(draft.config, draft.params)[1],
        text_BS.at[:, P].set(first_B),
        jnp.zeros((B, C)).at[:, 0].set(logp_B),
        jnp.ones(B, jnp.int32),
        jnp.isin(first_B, jnp.array(stop_ids, jnp.int32)) | (C == 1),
        Passes(zero, zero, zero),
    )
    state = jax.lax.while_loop(lambda s: ~s.stopped_B.all(), one_round, state)

    sampled_BC = (jnp.arange(C) < state.drawn_B[:, None]).astype(jnp.int32)
    ids_BC = jnp.where(sampled_BC > 0, state.text_BS[:, P : P + C], pad_id)
    positions_BC = (lengths_B[:, None] + jnp.arange(C)) * sampled_BC
    last_B = jnp.take_along_axis(ids_BC, state.drawn_B[:, None] - 1, axis=1)[:, 0]
    rollout = Rollout(
        prompt_BP=prompt_BP,
        completion_BC=Tokens(ids_BC, positions_BC, sampled_BC),
        logprobs_BC=state.logprobs_BC * sampled_BC,
        stopped_B=jnp.isin(last_B, jnp.array(stop_ids, jnp.int32)),
        rows_B=prompts.rows_B,
    )
    return rollout, state.passes


def _lookup(
    text_BS: jax.Array, start_B: jax.Array, end_B: jax.Array, n: int, ahead: int
) -> jax.Array:
    """What followed the last earlier place where a text's last n tokens stood; the last token over
    and over where there is none."""

    def row(text_S: jax.Array, start: jax.Array, end: jax.Array) -> jax.Array:
        places_S = jnp.arange(len(text_S))
        suffix = jax.lax.dynamic_slice(text_S, (end - n,), (n,))
        same_S = (places_S >= start) & (places_S + n < end)
        for i in range(n):
            same_S &= jnp.roll(text_S, -i) == suffix[i]
        place = jnp.where(same_S, places_S, -1).max()
        found = jax.lax.dynamic_slice(text_S, (place + n,), (ahead,))
        known = jnp.arange(ahead) + place + n < end
        return jnp.where((place >= 0) & known, found, suffix[-1])

    return jax.vmap(row)(text_BS, start_B, end_B)
