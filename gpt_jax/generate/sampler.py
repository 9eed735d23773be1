"""Sampling: prefill the prompts once, then one token per row and step until all have stopped."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.data.batches import Prompts, Tokens
from gpt_jax.generate.cache import repeat_rows
from gpt_jax.generate.sampling import filter_logprobs
from gpt_jax.models.contract import Model, Params, for_decoding, forward, init_cache
from gpt_jax.models.heads import last_logits


class Rollout(NamedTuple):
    """Prompts and what was sampled after them, as tokens, apart; T = P + C.

    Attributes:
      prompt_BP: left-padded, one segment each.
      completion_BC: right-padded; its positions go on from the prompt's, and its padding has the
        pad id, position 0 and segment 0. The stop token belongs to it.
      logprobs_BC: float32, log-probability of each sampled token under the distribution with
        the temperature applied; 0 on padding.
      stopped_B: bool, True where the stop token came, False where the length limit did.
      rows_B: int32, the numbers of the records that the prompts were made from.
    """

    prompt_BP: Tokens
    completion_BC: Tokens
    logprobs_BC: jax.Array
    stopped_B: jax.Array
    rows_B: jax.Array

    @property
    def mask_BC(self) -> jax.Array:
        """float32, 1 on sampled tokens (the stop token included)."""
        return (self.completion_BC.segment_ids > 0).astype("float32")

    @property
    def mask_BT(self) -> jax.Array:
        """`mask_BC` after zeros on the prompt: what of `tokens_BT` was sampled."""
        return jnp.concatenate([jnp.zeros(self.prompt_BP.ids.shape), self.mask_BC], axis=1)

    @property
    def tokens_BT(self) -> Tokens:
        """Prompts and completions side by side, as a model reads them."""
        pairs = zip(self.prompt_BP, self.completion_BC, strict=True)
        return Tokens(*(jnp.concatenate(pair, axis=1) for pair in pairs))


class _State(NamedTuple):
    """The loop's carry: `t` tokens are sampled, the last one is not yet in the cache."""

    t: jax.Array
    cache: Any
    tokens_BC: jax.Array
    mask_BC: jax.Array
    logprobs_BC: jax.Array
    stopped_B: jax.Array


def generate(
    config: Model,
    params: Params,
    prompts: Prompts,
    key: jax.Array,
    *,
    max_new_tokens: int,
    stop_ids: tuple[int, ...],
    pad_id: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    vocab_size: int | None = None,
    samples: int = 1,
    row_ids_B: jax.Array | None = None,
) -> Rollout:
    """Samples completions of at most `max_new_tokens` tokens for every prompt.

    Row b draws its t-th token with the key fold_in(fold_in(key, row_ids_B[b]), t), so the
    other rows of the batch and the padding change nothing. The loop ends when every row has
    stopped.

    Args:
      config, params: the model.
      prompts: left-padded, with P columns.
      key: one random key for the whole call.
      max_new_tokens: C.
      stop_ids: static; each of them ends a row, and is part of the completion.
      pad_id: fills the completion after the stop token; it may be one of those.
      temperature: static; divides the logits. 0 takes the most likely token, with its
        log-probability at temperature 1.
      top_k, top_p, min_p: static filters, as in `Sampling`. `logprobs_BC` is always that of the
        unfiltered distribution.
      vocab_size: static; the distribution is that among the ids below it, without a `pad_id` that
        is nothing else: a model's own vocabulary may be larger than the tokenizer's. None: among
        all ids, as in training.
      samples: static; completions of every prompt, which is read once. They are rows beside each
        other, so that B below is `samples` times the number of prompts.
      row_ids_B: integer name of each row in the random stream. None: its index.

    Raises:
      UserError: if the completions may outgrow what the model can read.
    """
    read_BP = prompts.tokens_BP
    read_BP = read_BP._replace(segment_ids=(read_BP.segment_ids != 0).astype(jnp.int32))
    prompt_BP, rows_B = jax.tree.map(
        lambda x: jnp.repeat(x, samples, axis=0), (read_BP, prompts.rows_B)
    )
    B, P = prompt_BP.ids.shape
    C = max_new_tokens
    row_ids_B = jnp.arange(B) if row_ids_B is None else row_ids_B
    keys_B = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, row_ids_B)
    lengths_B = (prompt_BP.segment_ids != 0).sum(axis=1)
    banned_id = padding_only(pad_id, stop_ids)

    def sample(state: _State, hidden_BD: jax.Array) -> _State:
        """Draws token t of every row that has not stopped."""
        running_B = ~state.stopped_B
        token_B, logprob_B = _sample(
            allowed(last_logits(config, params, hidden_BD), banned_id, vocab_size),
            jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, state.t),
            temperature,
            (top_k, top_p, min_p),
        )
        at = (slice(None), state.t)
        return state._replace(
            t=state.t + 1,
            tokens_BC=state.tokens_BC.at[at].set(jnp.where(running_B, token_B, pad_id)),
            mask_BC=state.mask_BC.at[at].set(running_B.astype(jnp.float32)),
            logprobs_BC=state.logprobs_BC.at[at].set(jnp.where(running_B, logprob_B, 0.0)),
            stopped_B=state.stopped_B | jnp.isin(token_B, jnp.array(stop_ids, jnp.int32)),
        )

    def step(state: _State) -> _State:
        """Feeds token t - 1 to the model and draws token t."""
        hidden_B1D, cache = forward(
            config,
            params,
            Tokens(
                state.tokens_BC[:, state.t - 1, None],
                (lengths_B + state.t - 1)[:, None],
                (~state.stopped_B)[:, None].astype(jnp.int32),
            ),
            state.cache,
        )
        return sample(state._replace(cache=cache), hidden_B1D[:, 0])

    params = for_decoding(config, params)
    hidden_BPD, cache = forward(config, params, read_BP, init_cache(config, B // samples, P + C))
    state = _State(
        t=jnp.zeros((), jnp.int32),
        cache=repeat_rows(config, cache, samples),
        tokens_BC=jnp.full((B, C), pad_id, jnp.int32),
        mask_BC=jnp.zeros((B, C), jnp.float32),
        logprobs_BC=jnp.zeros((B, C), jnp.float32),
        stopped_B=jnp.zeros((B,), bool),
    )
    # The first token comes from the prompt's last column, a real token by left padding.
    state = sample(state, jnp.repeat(hidden_BPD[:, -1], samples, axis=0))
    state = jax.lax.while_loop(lambda s: (s.t < C) & _any_running(s.stopped_B), step, state)

    sampled_BC = state.mask_BC.astype(jnp.int32)
    positions_BC = (lengths_B[:, None] + jnp.arange(C)) * sampled_BC
    return Rollout(
        prompt_BP=prompt_BP,
        completion_BC=Tokens(state.tokens_BC, positions_BC, sampled_BC),
        logprobs_BC=state.logprobs_BC,
        stopped_B=state.stopped_B,
        rows_B=rows_B,
    )


@jax.custom_batching.custom_vmap
def _any_running(stopped_B: jax.Array) -> jax.Array:
    """Whether the loop goes on. Under `vmap` (over seeds) until the last row of all has stopped:

    a condition for each seed would make the loop copy every cache at every token, to hold those
    still that are done. Rows that have stopped only add padding, so nothing else changes.
    """
    return ~stopped_B.all()


@_any_running.def_vmap
def _any_running_of_all(axis_size: int, in_batched: list, stopped_SB: jax.Array):
    del axis_size, in_batched
    return ~stopped_SB.all(), False


def padding_only(pad_id: int, stop_ids: tuple[int, ...]) -> int | None:
    """The padding's id, which no row may say; None where it is a stop token's, too."""
    return None if pad_id in stop_ids else pad_id


def allowed(logits_BV: jax.Array, banned_id: int | None, vocab_size: int | None) -> jax.Array:
    """The logits, with -inf for an id that nobody says (None: there is none) and for those from
    `vocab_size` on. `vocab_size` None: as they are."""
    if vocab_size is None:
        return logits_BV
    ids_V = jnp.arange(logits_BV.shape[-1])
    said_V = ids_V < vocab_size
    if banned_id is not None:
        said_V &= ids_V != banned_id
    return jnp.where(said_V, logits_BV, -jnp.inf)


def _sample(
    logits_BV: jax.Array,
    keys_B: jax.Array,
    temperature: float,
    filters: tuple[int, float, float],
) -> tuple[jax.Array, jax.Array]:
    """One token per row, int32, and its log-probability before any filter."""
    if temperature == 0.0:
        logp_BV = jax.nn.log_softmax(logits_BV, axis=-1)
        token_B = jnp.argmax(logits_BV, axis=-1)
    else:
        logp_BV = jax.nn.log_softmax(logits_BV / temperature, axis=-1)
        token_B = jax.vmap(jax.random.categorical)(keys_B, filter_logprobs(logp_BV, *filters))
    logprob_B = jnp.take_along_axis(logp_BV, token_B[:, None], axis=-1)[:, 0]
    return token_B.astype(jnp.int32), logprob_B


def most_likely(
    config: Model,
    params: Params,
    rollout: Rollout,
    *,
    count: int,
    temperature: float,
    stop_ids: tuple[int, ...],
    pad_id: int,
    vocab_size: int,
) -> tuple[jax.Array, jax.Array]:
    """The `count` most likely tokens at every place of a completion, and their log-probabilities.

    Returns:
      ids_BCK int32 and logprobs_BCK float32, the most likely first.
    """
    hidden_BTD, _ = forward(config, params, rollout.tokens_BT)
    c = rollout.completion_BC.ids.shape[1]
    hidden_CBD = hidden_BTD[:, -c - 1 : -1].swapaxes(0, 1)

    def at(hidden_BD):
        logits_BV = allowed(
            last_logits(config, params, hidden_BD), padding_only(pad_id, stop_ids), vocab_size
        )
        logp_BV = jax.nn.log_softmax(logits_BV / (temperature or 1.0), axis=-1)
        return jax.lax.top_k(logp_BV, count)

    logprobs_CBK, ids_CBK = jax.lax.map(at, hidden_CBD)
    return ids_CBK.swapaxes(0, 1).astype(jnp.int32), logprobs_CBK.swapaxes(0, 1)
