"""How likely a model thinks given texts: what multiple choice and perplexities are made of.

Texts are cut into context and continuation as lm-evaluation-harness cuts them, so that the numbers
are those that people compare: both are read as one text, and the tokens behind as many as the
context alone has are the continuation's; a space at the context's end goes to the continuation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.data.batches import Tokens
from gpt_jax.errors import UserError
from gpt_jax.generate.text import TextModel
from gpt_jax.models.contract import Model, Params, forward
from gpt_jax.models.heads import last_logits, token_logprobs

TOKENS = 4096  # of one call, about
NARROWEST = 32


class Likelihood(NamedTuple):
    """Of a continuation.

    Attributes:
      logprob: the sum over its tokens, in nats.
      greedy: whether each of them is the most likely one where it stands.
      tokens: how many they are.
      left_out: how many tokens of the context did not fit the model's.
    """

    logprob: float
    greedy: bool
    tokens: int
    left_out: int = 0


class _Row(NamedTuple):
    ids: list[int]
    count: int  # of the continuation, at the end
    left_out: int


def loglikelihoods(
    model: TextModel,
    pairs: Sequence[tuple[str, str]],
    tell: Callable[[int], None] = lambda done: None,
) -> list[Likelihood]:
    """The likelihood of a continuation after a context, for many pairs.

    Args:
      model: a language model; how it is asked as a chat does not matter.
      pairs: (context, continuation). An empty context is the token between documents.
      tell: is given the number of pairs that are done.

    Raises:
      UserError: if a continuation is empty, or does not fit the model's context.
    """
    rows = [_row(model, *pair, number) for number, pair in enumerate(pairs, 1)]
    alike: dict[tuple[int, ...], list[int]] = {}  # what differs in its last token is read once
    for number, row in enumerate(rows):
        alike.setdefault(tuple(row.ids[:-1]), []).append(number)
    order = sorted(alike, key=len, reverse=True)  # the largest shape first
    found: dict[int, Likelihood] = {}
    start = 0
    while start < len(order):
        width = _width(len(order[start]), model.config.context_length)
        some = order[start : start + max(1, TOKENS // width)]
        numbers = [number for read in some for number in alike[read]]
        groups = [[rows[number] for number in alike[read]] for read in some]
        found |= zip(numbers, _score(model, groups, width), strict=True)
        start += len(some)
        tell(len(found))
    return [found[i] for i in range(len(rows))]


def _row(model: TextModel, context: str, continuation: str, number: int) -> _Row:
    """A pair as tokens, shortened at its beginning to what the model reads."""
    tokenizer, limit = model.tokenizer, model.config.context_length
    if not continuation:
        raise UserError(f"pair {number} has an empty continuation; give it a word")
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    opening = [tokenizer.bos_id] if tokenizer.begins_with_bos else []
    before = opening + tokenizer.encode(context) if context else []
    whole = opening + tokenizer.encode(context + continuation)
    behind = whole[len(before) :] if context else whole[len(opening) :]
    before = before or opening or [tokenizer.document_id]
    if not behind or len(behind) > limit:
        raise UserError(
            f"pair {number}: its continuation has {len(behind)} tokens, but must have 1 to {limit}"
        )
    ids = before + behind
    left_out = max(0, len(ids) - limit - 1)  # the last token is only predicted
    return _Row(ids[left_out:], len(behind), left_out)


def _width(tokens: int, context: int) -> int:
    """Of a batch: a power of two, or three quarters of one."""
    power = max(NARROWEST, 1 << (tokens - 1).bit_length())
    return min(context, power * 3 // 4 if tokens <= power * 3 // 4 else power)


def _score(model: TextModel, groups: list[list[_Row]], width: int) -> list[Likelihood]:
    """One call of the model; the rows of a group differ in their last token alone."""
    size = max(1, TOKENS // width)
    most = max(sum(row.count for row in rows) for rows in groups)
    places = 1 << (most - 1).bit_length()
    ids_BT = np.full((size, width), model.tokenizer.pad_id, np.int32)
    segment_ids_BT = np.zeros((size, width), np.int32)
    targets_BC, at_BC = np.zeros((size, places), np.int32), np.zeros((size, places), np.int32)
    spans = []
    for b, rows in enumerate(groups):
        read, start = rows[0].ids[:-1], 0
        ids_BT[b, : len(read)], segment_ids_BT[b, : len(read)] = read, 1
        for row in rows:
            span = slice(start, start + row.count)
            targets_BC[b, span] = row.ids[-row.count :]
            at_BC[b, span] = np.arange(len(read) - row.count, len(read))
            spans.append((b, span, row))
            start += row.count
    segment_ids_BT[len(groups) :, 0] = 1  # no row is empty
    positions_BT = np.arange(width, dtype=np.int32) * segment_ids_BT
    with model.on_mesh():
        logprobs_BC, likeliest_BC = jax.device_get(
            _continuations(
                model.config,
                model.params,
                Tokens(ids_BT, positions_BT, segment_ids_BT),
                targets_BC,
                at_BC,
            )
        )
    return [
        Likelihood(
            float(logprobs_BC[b, span].astype(np.float64).sum()),
            bool(likeliest_BC[b, span].all()),
            row.count,
            row.left_out,
        )
        for b, span, row in spans
    ]


@functools.partial(jax.jit, static_argnums=0)
def _continuations(
    config: Model, params: Params, tokens_BT: Tokens, targets_BC: jax.Array, at_BC: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of the targets at some places, and whether each is the likeliest token."""
    hidden_BTD, _ = forward(config, params, tokens_BT)
    hidden_BCD = jnp.take_along_axis(hidden_BTD, at_BC[:, :, None], axis=1)

    def at(column: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        hidden_BD, target_B = column
        logp_BV = jax.nn.log_softmax(last_logits(config, params, hidden_BD), axis=-1)
        logprob_B = jnp.take_along_axis(logp_BV, target_B[:, None], axis=-1)[:, 0]
        return logprob_B, jnp.argmax(logp_BV, axis=-1) == target_B

    columns = (hidden_BCD.swapaxes(0, 1), targets_BC.T)
    return tuple(x_CB.T for x_CB in jax.lax.map(at, columns))


class Rolling(NamedTuple):
    """Of a whole text.

    Attributes:
      logprob: the sum over its tokens, in nats.
      tokens, words, bytes: of the text; words as white space parts them.
    """

    logprob: float
    tokens: int
    words: int
    bytes: int

    @property
    def bits_per_byte(self) -> float:
        return -self.logprob / math.log(2) / self.bytes

    @property
    def perplexity(self) -> float:
        """Per token."""
        return math.exp(-self.logprob / self.tokens)

    @property
    def word_perplexity(self) -> float:
        return math.exp(-self.logprob / self.words)


def rolling(model: TextModel, text: str, stride: int, width: int | None = None) -> Rolling:
    """The likelihood of a text that is longer than the model's context.

    The text is read in windows that begin `stride` tokens apart; every token is predicted once,
    in the first window that has it, so that all but the first window's see at least
    `width - stride` tokens before them.

    Args:
      model: a language model.
      text: of at least one token.
      stride: at most the width.
      width: tokens of a window; None: the model's context.
    """
    width = width or model.config.context_length
    if not 1 <= stride <= width <= model.config.context_length:
        raise UserError(
            f"a stride of {stride} and windows of {width} tokens do not fit a context of "
            f"{model.config.context_length}; give 1 <= stride <= window <= context"
        )
    tokenizer = model.tokenizer
    opening = tokenizer.bos_id if tokenizer.begins_with_bos else tokenizer.document_id
    ids = [opening, *tokenizer.encode(text)]
    size = max(1, TOKENS // width)
    windows = []  # (from, first token that counts, to), of the ids that are predicted
    done = 1
    while done < len(ids):
        end = min(len(ids), width + 1 if done == 1 else done + stride)
        windows.append((max(0, end - width - 1), done, end))
        done = end
    total = 0.0
    for start in range(0, len(windows), size):
        some = windows[start : start + size]
        ids_BT = np.full((size, width), tokenizer.pad_id, np.int32)
        segment_ids_BT, weights_BT = np.zeros((2, size, width), np.int32)
        targets_BT = np.zeros((size, width), np.int32)
        segment_ids_BT[:, 0] = 1
        for b, (begin, first, end) in enumerate(some):
            n = end - 1 - begin
            ids_BT[b, :n], segment_ids_BT[b, :n] = ids[begin : end - 1], 1
            targets_BT[b, :n] = ids[begin + 1 : end]
            weights_BT[b, first - begin - 1 : n] = 1
        positions_BT = np.arange(width, dtype=np.int32) * segment_ids_BT
        with model.on_mesh():
            logprobs_BT = _all_logprobs(
                model.config,
                model.params,
                Tokens(ids_BT, positions_BT, segment_ids_BT),
                targets_BT,
            )
        total += float((np.asarray(logprobs_BT, np.float64) * weights_BT).sum())
    return Rolling(total, len(ids) - 1, len(text.split()), len(text.encode()))


@functools.partial(jax.jit, static_argnums=0)
def _all_logprobs(
    config: Model, params: Params, tokens_BT: Tokens, targets_BT: jax.Array
) -> jax.Array:
    hidden_BTD, _ = forward(config, params, tokens_BT)
    return token_logprobs(config, params, hidden_BTD, targets_BT)[0]
