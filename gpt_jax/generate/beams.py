"""Beam search: the likeliest whole completions, as far as a few prefixes at a time can find them.

    best_of(open_run("runs/rlhf/tiny"), ["What is 3 plus 4?"], 4, max_new_tokens=32)[0][0].text

A completion y of n tokens has the score log p(y | x) / n^alpha. At every step each of the K
prefixes is continued by every token; of the K V continuations the K best that go on are kept, and
those among the K best that end join the finished ones, of which the K best stay (Graves 2012; Wu et
al. 2016, section 7, with a length penalty of n^alpha). A row is over when no prefix can come to a
better score than the worst finished completion, if every token to come were certain.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.data.batches import Prompts, Tokens, pad_prompts
from gpt_jax.errors import UserError
from gpt_jax.generate.cache import repeat_rows, take_rows
from gpt_jax.generate.sampler import allowed, padding_only
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import BATCH, Completion, Prompt, TextModel
from gpt_jax.models.contract import Model, Params, for_decoding, forward, init_cache
from gpt_jax.models.heads import last_logits


class Beams(NamedTuple):
    """K completions of every prompt, the best first.

    Attributes:
      ids_BKC: int32, the pad id behind the end.
      logprobs_BKC: float32, of each token; 0 behind the end.
      lengths_BK: int32; the stop token counts.
      scores_BK: float32, log-probability / length^alpha; -inf where there are fewer completions.
      stopped_BK: bool, whether a stop token ended it, and not the length limit.
    """

    ids_BKC: jax.Array
    logprobs_BKC: jax.Array
    lengths_BK: jax.Array
    scores_BK: jax.Array
    stopped_BK: jax.Array


class _State(NamedTuple):
    """The loop's carry: prefixes of `t` tokens, the last of which is not in the cache."""

    t: jax.Array
    cache: Any
    ids_BKC: jax.Array
    logprobs_BKC: jax.Array
    sums_BK: jax.Array
    over_B: jax.Array
    done: Beams


def beam_search(
    config: Model,
    params: Params,
    prompts: Prompts,
    *,
    beams: int,
    max_new_tokens: int,
    stop_ids: tuple[int, ...],
    pad_id: int,
    vocab_size: int | None = None,
    length_penalty: float = 1.0,
) -> Beams:
    """The best completions of every prompt; the other rows and the padding change nothing.

    Args:
      config, params: the model.
      prompts: left-padded.
      beams: K, static: prefixes that are kept, and completions that are given.
      max_new_tokens: C, static. A completion of so many tokens ends there.
      stop_ids: static; each of them ends a completion, and is part of it.
      pad_id: fills the completions behind their ends.
      vocab_size: static, as for `generate`.
      length_penalty: static; alpha. 0 compares log-probabilities, 1 their means over the tokens.

    Raises:
      UserError: if there is no beam, alpha is negative, or the completions may outgrow what the
        model can read.
    """
    if beams < 1 or max_new_tokens < 1 or length_penalty < 0.0:
        raise UserError(
            f"beams {beams}, max_new_tokens {max_new_tokens} and length_penalty {length_penalty} "
            "must be at least 1, 1 and 0"
        )
    read_BP = prompts.tokens_BP
    read_BP = read_BP._replace(segment_ids=(read_BP.segment_ids != 0).astype(jnp.int32))
    B, P = read_BP.ids.shape
    K, C = beams, max_new_tokens
    lengths_N = jnp.repeat((read_BP.segment_ids != 0).sum(axis=1), K)
    grow = functools.partial(
        _grow,
        stop_ids=jnp.array(stop_ids, jnp.int32),
        # So many of the best continuations that K of them go on.
        candidates=K * (1 + len(stop_ids)),
        length_penalty=length_penalty,
    )

    def logprobs(hidden_ND: jax.Array) -> jax.Array:
        logits_NV = last_logits(config, params, hidden_ND)
        logits_NV = allowed(logits_NV, padding_only(pad_id, stop_ids), vocab_size)
        return jax.nn.log_softmax(logits_NV, axis=-1).reshape(B, K, -1)

    def step(state: _State) -> _State:
        token_N1 = state.ids_BKC[:, :, state.t - 1].reshape(B * K, 1)
        places_N1 = (lengths_N + state.t - 1)[:, None]
        tokens_N1 = Tokens(token_N1, places_N1, jnp.ones_like(token_N1))
        hidden_N1D, cache = forward(config, params, tokens_N1, state.cache)
        state, rows_N = grow(state, logprobs(hidden_N1D[:, 0]))
        return state._replace(cache=take_rows(config, cache, rows_N))

    params = for_decoding(config, params)
    hidden_BPD, cache = forward(config, params, read_BP, init_cache(config, B, P + C))
    ids_BKC, zeros_BKC = jnp.full((B, K, C), pad_id, jnp.int32), jnp.zeros((B, K, C))
    nothing_BK = jnp.full((B, K), -jnp.inf)
    none = Beams(
        ids_BKC, zeros_BKC, jnp.zeros((B, K), jnp.int32), nothing_BK, jnp.zeros((B, K), bool)
    )
    state = _State(
        t=jnp.zeros((), jnp.int32),
        cache=repeat_rows(config, cache, K),
        ids_BKC=ids_BKC,
        logprobs_BKC=zeros_BKC,
        sums_BK=nothing_BK.at[:, 0].set(0.0),  # all prefixes are the empty one: it counts once
        over_B=jnp.zeros(B, bool),
        done=none,
    )
    state, _ = grow(state, logprobs(jnp.repeat(hidden_BPD[:, -1], K, axis=0)))
    state = jax.lax.while_loop(lambda s: (s.t < C) & ~s.over_B.all(), step, state)
    return state.done


def _grow(
    state: _State,
    logp_BKV: jax.Array,
    *,
    stop_ids: jax.Array,
    candidates: int,
    length_penalty: float,
) -> tuple[_State, jax.Array]:
    """Continues every prefix by a token; also which row of the cache each prefix comes from."""
    B, K, V = logp_BKV.shape
    C, t = state.ids_BKC.shape[2], state.t
    sums_BX = (state.sums_BK[:, :, None] + logp_BKV).reshape(B, K * V)
    sums_BM, places_BM = jax.lax.top_k(sums_BX, min(candidates, K * V))
    from_BM, token_BM = places_BM // V, (places_BM % V).astype(jnp.int32)
    logprob_BM = jnp.take_along_axis(logp_BKV.reshape(B, K * V), places_BM, axis=1)
    ids_BMC = _take(state.ids_BKC, from_BM).at[:, :, t].set(token_BM)
    logprobs_BMC = _take(state.logprobs_BKC, from_BM).at[:, :, t].set(logprob_BM)

    stopped_BM = jnp.isin(token_BM, stop_ids)
    ends_BM = stopped_BM | (t + 1 == C)
    scores_BM = sums_BM / (t + 1.0) ** length_penalty
    kept_BM = ends_BM & (jnp.arange(ends_BM.shape[1]) < K) & ~state.over_B[:, None]
    new = Beams(
        ids_BMC,
        logprobs_BMC,
        jnp.full_like(token_BM, t + 1),
        jnp.where(kept_BM, scores_BM, -jnp.inf),
        stopped_BM,
    )
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), state.done, new)
    best_BK = jax.lax.top_k(both.scores_BK, K)[1]
    done = jax.tree.map(lambda x: _take(x, best_BK), both)

    going_BK, chosen_BK = jax.lax.top_k(jnp.where(ends_BM, -jnp.inf, sums_BM), K)
    bound_B = going_BK[:, 0] / float(C) ** length_penalty  # log-probabilities only fall
    over_B = state.over_B | (bound_B <= done.scores_BK[:, -1])
    rows_BK = jnp.arange(B)[:, None] * K + _take(from_BM, chosen_BK)
    grown = state._replace(
        t=t + 1,
        ids_BKC=_take(ids_BMC, chosen_BK),
        logprobs_BKC=_take(logprobs_BMC, chosen_BK),
        sums_BK=going_BK,
        over_B=over_B,
        done=done,
    )
    return grown, rows_BK.reshape(-1)


def _take(x_BM: jax.Array, chosen_BK: jax.Array) -> jax.Array:
    """Some of the second axis, whatever follows it."""
    index = chosen_BK.reshape(*chosen_BK.shape, *[1] * (x_BM.ndim - 2))
    return jnp.take_along_axis(x_BM, index, axis=1)


def best_of(
    model: TextModel,
    prompts: Sequence[Prompt],
    beams: int,
    *,
    max_new_tokens: int = 128,
    length_penalty: float = 1.0,
) -> list[list[Completion]]:
    """The `beams` best completions of every prompt, the best first.

    Args:
      model: that is asked.
      prompts: as for `TextModel.complete`.
      beams, max_new_tokens, length_penalty: as for `beam_search`.

    Raises:
      UserError: as `TextModel.complete` and `beam_search`.
    """
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=0.0)
    asked = [model.asked(prompt, number, sampling) for number, prompt in enumerate(prompts)]
    found, size = [], max(1, BATCH // max(1, beams))
    for start in range(0, len(asked), size):
        some = asked[start : start + size]
        width = max(len(one.ids) for one in some)
        padded = pad_prompts([one.ids for one in some], width, model.tokenizer.pad_id)
        with model.on_mesh():
            drawn = jax.device_get(
                _search(
                    model.config,
                    model.params,
                    padded,
                    beams=beams,
                    max_new_tokens=max_new_tokens,
                    stop_ids=model.tokenizer.stop_ids,
                    pad_id=model.tokenizer.pad_id,
                    vocab_size=model.tokenizer.vocab_size,
                    length_penalty=length_penalty,
                )
            )
        for row, one in enumerate(some):
            places = np.flatnonzero(np.isfinite(drawn.scores_BK[row]))
            found.append([_completion(model, one, drawn, row, k) for k in places])
    return found


def _completion(model: TextModel, asked: Any, drawn: Beams, row: int, k: int) -> Completion:
    length = int(drawn.lengths_BK[row, k])
    ids = drawn.ids_BKC[row, k, :length].tolist()
    logprobs = drawn.logprobs_BKC[row, k, :length].tolist()
    return model.completion(asked, ids, logprobs, [], bool(drawn.stopped_BK[row, k]))


_search = jax.jit(
    beam_search,
    static_argnums=0,
    static_argnames=(
        *("beams", "max_new_tokens", "stop_ids", "pad_id", "vocab_size", "length_penalty"),
    ),
)
