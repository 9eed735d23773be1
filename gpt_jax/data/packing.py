"""Canonical records -> whole arrays of rows, made once before training starts.

Everything a stage trains on is laid out here as NumPy arrays with one leading row axis;
`pipeline.py` then picks rows by number. What is too long loses whole old turns, never its system
turn, the opener of a turn or the user's newest message; what still does not fit is left out. Every
function that shortens or leaves out takes a `LeftOut` and counts it there.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np

from gpt_jax.data.batches import Batch, Comparisons, Prompts, empty_tokens, pad_prompts, put
from gpt_jax.data.encoding import encode_all
from gpt_jax.data.left_out import CUT, DROPPED, SHORTENED, LeftOut
from gpt_jax.errors import UserError
from gpt_jax.text import chat
from gpt_jax.text.tokenizer import Tokenizer

Ids = Sequence[int] | np.ndarray
Example = tuple[Ids, Ids]  # token ids and loss mask, of one length
Render = Callable[[list[dict], Tokenizer], list[int]]  # of the messages of a prompt


def split_document(ids: Ids, length: int) -> list[Ids]:
    """Cuts a document into pieces of at most `length` tokens that overlap by one.

    The shared token is the context of the next piece's first prediction, so every token of the
    document but its first is predicted exactly once.
    """
    starts = range(0, max(1, len(ids) - 1), length - 1)
    return [ids[start : start + length] for start in starts]


def pack(examples: Sequence[Example], length: int, pad_id: int) -> Batch:
    """Packs examples into rows of `length` tokens, best fit first; returns all rows as one Batch.

    Each example becomes a segment of its own with positions from 0. The weight of its first token
    is 0, since nothing of its own stands before it.

    Raises:
      UserError: if an example has nothing to learn (an all-zero mask after its first token).
      ValueError: if an example is longer than a row: what is cut is cut before, and counted.
    """
    if any(len(ids) > length for ids, _ in examples):
        raise ValueError(f"an example is longer than the row of {length} tokens")
    bins = _best_fit([len(ids) for ids, _ in examples], length)
    tokens_BT = empty_tokens((len(bins), length), pad_id)
    weights_BT = np.zeros((len(bins), length), np.float32)
    for b, members in enumerate(bins):
        start = 0
        for segment, i in enumerate(members, start=1):
            ids, mask = examples[i]
            if not np.any(mask[1:]):
                raise UserError(
                    f"example {i + 1} has no token to learn from; give it an assistant turn"
                )
            where = np.s_[b, start : start + len(ids)]
            put(tokens_BT, where, ids, segment)
            weights_BT[where] = mask
            weights_BT[b, start] = 0
            start += len(ids)
    return Batch(tokens_BT, weights_BT)


def _best_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: puts each item where it leaves the least room. Returns item indices."""
    room: list[tuple[int, int]] = []  # (free space, bin), sorted
    bins: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        at = bisect.bisect_left(room, (lengths[i], -1))
        if at == len(room):
            bins.append([i])
            free, b = capacity, len(bins) - 1
        else:
            free, b = room.pop(at)
            bins[b].append(i)
        if free > lengths[i]:
            bisect.insort(room, (free - lengths[i], b))
    return bins


def pack_documents(rows: Sequence[dict], tokenizer: Tokenizer, length: int) -> Batch:
    """`{"text"}` records -> packed rows; every token but a document's opening <eos> is learned."""
    return pack_pieces(
        encode_all((row["text"] for row in rows), tokenizer), length, tokenizer.pad_id
    )


def pack_pieces(documents: Iterable[Ids], length: int, pad_id: int) -> Batch:
    """Tokenized documents of any length -> packed rows."""
    pieces = [piece for ids in documents for piece in split_document(ids, length)]
    ones = np.ones(length, np.int8)  # shared by all pieces: a corpus of them would not fit
    return pack([(piece, ones[: len(piece)]) for piece in pieces], length, pad_id)


def pack_demonstrations(
    rows: Sequence[dict],
    tokenizer: Tokenizer,
    length: int,
    left_out: LeftOut,
    name: str = "demonstrations",
) -> Batch:
    """`{"messages"}` records -> packed rows; only what the assistant says is learned.

    A conversation that is too long loses old turns; one whose newest turn alone is too long, the
    end of its last answer, stop token included: what is left of it is learned from as it stands.

    Args:
      rows: the records.
      tokenizer: of the model.
      length: of a row.
      left_out: counts what did not fit.
      name: of the rows there.

    Raises:
      UserError: if nothing fits, or a conversation has nothing to learn.
    """
    count = functools.partial(left_out.add, name=name, total=len(rows), limit=length)
    fitted = (_fit_demonstration(row["messages"], tokenizer, length, count) for row in rows)
    examples = [example for example in fitted if example]
    _check_some(examples, name, length)
    return pack(examples, length, tokenizer.pad_id)


def _fit_demonstration(
    messages: list[dict], tokenizer: Tokenizer, length: int, count: Callable[[str], None]
) -> Example | None:
    ids, mask = chat.render(messages, tokenizer)
    if len(ids) <= length:
        return ids, mask
    for some in chat.shorter(messages):
        ids, mask = chat.render(some, tokenizer)
        if len(ids) <= length:
            break
    if not any(mask[1:length]):
        count(DROPPED)
        return None
    if len(some) < len(messages):
        count(SHORTENED)
    if len(ids) > length:
        count(CUT)
    return ids[:length], mask[:length]


def comparison_length(rows: Sequence[dict], tokenizer: Tokenizer, longest: int) -> int:
    """The length that 99 of 100 prompts with a completion fit in, as `row_length` rounds it."""
    lengths = [len(p) + len(c) for row in rows for p, c in _render_comparison(row, tokenizer)]
    return min(longest, round_up(int(np.ceil(np.percentile(lengths, 99)))))


def pad_comparisons(
    rows: Sequence[dict],
    tokenizer: Tokenizer,
    longest: int,
    left_out: LeftOut,
    name: str = "comparisons",
) -> Comparisons:
    """`{"prompt", "completions"[K], "ranks"[K], "stopped"[K]}` -> one (N, K, T) bundle.

    K is the largest number of completions of any record; empty slots have rank -1. Where every
    record has `degrees`, too, so has the bundle. T is the length
    of the longest example, at most `longest`. All completions of a record follow the same prompt:
    as much of it as leaves room for the longest of them. A record that does not fit becomes an
    empty row, so that rows keep their numbers; `without_empty` takes these away.

    Args:
      rows: the records.
      tokenizer: of the model.
      longest: the most tokens of a prompt with a completion.
      left_out: counts what did not fit.
      name: of the rows there.
    """
    count = functools.partial(left_out.add, name=name, total=len(rows), limit=longest)
    slots = max(len(row["completions"]) for row in rows)
    fitted = [_fit_comparison(row, tokenizer, longest, count) for row in rows]
    length = row_length((p + c for examples in fitted for p, c in examples), longest)
    shape = (len(rows), slots, length)
    tokens_BKT = empty_tokens(shape, tokenizer.pad_id)
    weights_BKT = np.zeros(shape, np.float32)
    ranks_BK = np.full(shape[:2], -1, np.int32)
    graded = all("degrees" in row for row in rows)
    degrees_BK = np.zeros(shape[:2], np.float32) if graded else None
    for n, examples in enumerate(fitted):
        for k, (prompt, completion) in enumerate(examples):
            end = len(prompt) + len(completion)
            put(tokens_BKT, np.s_[n, k, :end], prompt + completion)
            weights_BKT[n, k, len(prompt) : end] = 1
            ranks_BK[n, k] = rows[n]["ranks"][k]
            if graded:
                degrees_BK[n, k] = rows[n]["degrees"][k]
    return Comparisons(tokens_BKT, weights_BKT, ranks_BK, degrees_BK)


def empty_comparisons(shape: tuple[int, int, int], pad_id: int) -> Comparisons:
    """As many comparisons as (N, K, T) says, of nothing: to look at what is still to be made."""
    ranks_BK = np.tile(np.arange(shape[1], dtype=np.int32), (shape[0], 1))
    return Comparisons(empty_tokens(shape, pad_id), np.zeros(shape, np.float32), ranks_BK)


def _render_comparison(row: dict, tokenizer: Tokenizer) -> list[tuple[list[int], list[int]]]:
    """(prompt, completion) of every completion."""
    prompt = chat.render_prompt(row["prompt"], tokenizer)
    return [
        (prompt, chat.render_completion(text, stopped, tokenizer))
        for text, stopped in zip(row["completions"], row["stopped"], strict=True)
    ]


def _fit_comparison(
    row: dict, tokenizer: Tokenizer, longest: int, count: Callable[[str], None]
) -> list[tuple[list[int], list[int]]]:
    """The same with a prompt that leaves room for every completion; nothing if there is none."""
    rendered = _render_comparison(row, tokenizer)
    room = longest - max(len(completion) for _, completion in rendered)
    if len(rendered[0][0]) <= room:
        return rendered
    prompt = _fit_prompt(row["prompt"], tokenizer, room, count)
    return [(prompt, completion) for _, completion in rendered if prompt]


def without_empty(rows: Comparisons, name: str, longest: int) -> tuple[Comparisons, np.ndarray]:
    """The rows that have a completion, and their numbers.

    Raises:
      UserError: if there is none, since no record fits in `longest` tokens.
    """
    numbers = np.flatnonzero((rows.ranks_BK >= 0).any(axis=1))
    _check_some(numbers, name, longest)
    return jax.tree.map(lambda x: x[numbers], rows), numbers


def pad_prompt_records(
    rows: Sequence[dict],
    tokenizer: Tokenizer,
    longest: int,
    left_out: LeftOut,
    name: str = "prompts",
    render: Render = chat.render_prompt,
) -> Prompts:
    """`{"prompt": messages}` records -> left-padded prompts that end with <|assistant|>.

    Args:
      rows: the records.
      tokenizer: of the model.
      longest: the most tokens of a prompt.
      left_out: counts what did not fit; a record that is left out has no row, and `rows_B` gives
        the numbers of the others.
      name: of the rows there.
      render: lays out the messages, if in another way.

    Raises:
      UserError: if nothing fits.
    """
    count = functools.partial(left_out.add, name=name, total=len(rows), limit=longest)
    fitted = [_fit_prompt(row["prompt"], tokenizer, longest, count, render) for row in rows]
    numbers = [n for n, ids in enumerate(fitted) if ids]
    _check_some(numbers, name, longest)
    kept = [fitted[n] for n in numbers]
    prompts = pad_prompts(kept, row_length(kept, longest), tokenizer.pad_id)
    return prompts._replace(rows_B=np.array(numbers, np.int32))


def _fit_prompt(
    messages: list[dict],
    tokenizer: Tokenizer,
    limit: int,
    count: Callable[[str], None],
    render: Render = chat.render_prompt,
) -> list[int] | None:
    ids = render(messages, tokenizer)
    if len(ids) <= limit:
        return ids
    kept = chat.shorten(messages, tokenizer, limit, render)
    count(DROPPED if kept is None else SHORTENED)
    return None if kept is None else render(kept, tokenizer)


def _check_some(rows: Sequence, name: str, limit: int) -> None:
    if not len(rows):
        raise UserError(
            f"none of the {name} fits in {limit} tokens; give shorter ones, or a longer context "
            "(--pretrain.model.context-length) or limit (--reward.longest, --ppo.max-new-tokens)"
        )


def row_length(examples: Iterable[list[int]], longest: int) -> int:
    """Length of the longest example, rounded up to a multiple of 8, at most `longest`."""
    return min(longest, round_up(max(map(len, examples), default=1)))


def round_up(length: int) -> int:
    """To a multiple of 8."""
    return -(-length // 8) * 8
