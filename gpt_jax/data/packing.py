"""Canonical records -> whole arrays of rows, made once before training starts.

Everything a stage trains on is laid out here as NumPy arrays with one leading row axis;
`pipeline.py` then picks rows by number. An example longer than a row keeps its end: that is where
the answer and its stop token are.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence

import numpy as np

from gpt_jax.data.batches import Batch, Comparisons, Prompts, empty_tokens, pad_prompts, put
from gpt_jax.errors import UserError
from gpt_jax.text import chat
from gpt_jax.text.tokenizer import Tokenizer

Example = tuple[list[int], list[int]]  # token ids and loss mask, of one length


def split_document(ids: list[int], length: int) -> list[list[int]]:
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
    """
    bins = _best_fit([min(len(ids), length) for ids, _ in examples], length)
    tokens_BT = empty_tokens((len(bins), length), pad_id)
    weights_BT = np.zeros((len(bins), length), np.float32)
    for b, members in enumerate(bins):
        start = 0
        for segment, i in enumerate(members, start=1):
            ids, mask = (x[-length:] for x in examples[i])
            if not any(mask[1:]):
                raise UserError(
                    f"example {i + 1} has no token to learn from; give it an assistant turn"
                )
            where = np.s_[b, start : start + len(ids)]
            put(tokens_BT, where, ids, segment)
            weights_BT[where] = [0, *mask[1:]]
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
        bisect.insort(room, (free - lengths[i], b))
    return bins


def pack_documents(rows: Sequence[dict], tokenizer: Tokenizer, length: int) -> Batch:
    """`{"text"}` records -> packed rows; every token but a document's opening <eos> is learned."""
    documents = (chat.render_document(row["text"], tokenizer) for row in rows)
    pieces = [piece for ids in documents for piece in split_document(ids, length)]
    return pack([(piece, [1] * len(piece)) for piece in pieces], length, tokenizer.pad_id)


def pack_demonstrations(rows: Sequence[dict], tokenizer: Tokenizer, length: int) -> Batch:
    """`{"messages"}` records -> packed rows; only what the assistant says is learned."""
    examples = [chat.render(row["messages"], tokenizer) for row in rows]
    return pack(examples, length, tokenizer.pad_id)


def pad_comparisons(rows: Sequence[dict], tokenizer: Tokenizer, longest: int) -> Comparisons:
    """`{"prompt", "completions"[K], "ranks"[K], "stopped"[K]}` -> one (N, K, T) bundle.

    K is the largest number of completions of any record; empty slots have rank -1. T is the length
    of the longest example, at most `longest`.
    """
    slots = max(len(row["completions"]) for row in rows)
    rendered = [
        [
            (prompt, chat.render_completion(text, stopped, tokenizer))
            for text, stopped in zip(row["completions"], row["stopped"], strict=True)
        ]
        for row in rows
        for prompt in [chat.render_prompt(row["prompt"], tokenizer)]
    ]
    length = row_length((p + c for examples in rendered for p, c in examples), longest)
    shape = (len(rows), slots, length)
    tokens_BKT = empty_tokens(shape, tokenizer.pad_id)
    weights_BKT = np.zeros(shape, np.float32)
    ranks_BK = np.full(shape[:2], -1, np.int32)
    for n, row in enumerate(rows):
        for k, (prompt, completion) in enumerate(rendered[n]):
            ids = (prompt + completion)[-length:]
            put(tokens_BKT, np.s_[n, k, : len(ids)], ids)
            weights_BKT[n, k, max(0, len(ids) - len(completion)) : len(ids)] = 1
            ranks_BK[n, k] = row["ranks"][k]
    return Comparisons(tokens_BKT, weights_BKT, ranks_BK)


def pad_prompt_records(rows: Sequence[dict], tokenizer: Tokenizer, longest: int) -> Prompts:
    """`{"prompt": messages}` records -> left-padded prompts that end with <|assistant|>."""
    rendered = [chat.render_prompt(row["prompt"], tokenizer) for row in rows]
    return pad_prompts(rendered, row_length(rendered, longest), tokenizer.pad_id)


def row_length(examples: Iterable[list[int]], longest: int) -> int:
    """Length of the longest example, rounded up to a multiple of 8, at most `longest`."""
    return min(longest, -(-max(map(len, examples)) // 8) * 8)
