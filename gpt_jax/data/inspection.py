"""What a source holds: lengths, what is left out or cut, how tightly it packs, examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gpt_jax.data.duplicates import words
from gpt_jax.data.encoding import encode_all
from gpt_jax.data.left_out import LeftOut
from gpt_jax.data.packing import (
    pack_demonstrations,
    pack_documents,
    pad_comparisons,
    pad_prompt_records,
)
from gpt_jax.text import chat
from gpt_jax.text.tokenizer import Tokenizer

PERCENTILES = (0, 5, 25, 50, 75, 95, 99, 100)
Span = tuple[str, str]  # what is said, and how it counts: learned, context, better or worse


class Packing(NamedTuple):
    """How rows of one length are filled, or of at most this length where they are padded.

    Attributes:
      rows: how many there are.
      filled: the share of their tokens that is no padding.
      learned: the share that is learned from.
      left_out: what was cut or did not fit.
    """

    rows: int
    filled: float
    learned: float
    left_out: LeftOut


def text_of(row: dict) -> str:
    """What the user, the assistant or a document says in a canonical row; system turns, which are
    often the same in all rows, are left out."""
    if "text" in row:
        return row["text"]
    turns = row.get("messages") or row["prompt"]
    said = [turn["content"] for turn in turns if turn["role"] != "system"]
    return "\n".join([*said, *row.get("completions", ())])


def lengths(rows: Sequence[dict], tokenizer: Tokenizer | None) -> np.ndarray:
    """Tokens of every document, conversation, prompt or prompt with a completion; without a
    tokenizer, words."""
    if tokenizer is None:
        return np.array([len(words(text_of(row))) for row in rows])
    if "text" in rows[0]:
        return np.array([len(ids) for ids in encode_all((r["text"] for r in rows), tokenizer)])
    if "messages" in rows[0]:
        return np.array([len(chat.render(row["messages"], tokenizer)[0]) for row in rows])
    prompts = [len(chat.render_prompt(row["prompt"], tokenizer)) for row in rows]
    if "completions" not in rows[0]:
        return np.array(prompts)
    return np.array(
        [
            prompt + len(chat.render_completion(text, stopped, tokenizer))
            for prompt, row in zip(prompts, rows, strict=True)
            for text, stopped in zip(row["completions"], row["stopped"], strict=True)
        ]
    )


def bytes_per_token(texts: Sequence[str], tokenizer: Tokenizer) -> float:
    """How many bytes of UTF-8 a token stands for, the two around each document not counted."""
    tokens = sum(len(ids) - 2 for ids in encode_all(texts, tokenizer))
    return sum(len(text.encode()) for text in texts) / tokens


def packing(rows: Sequence[dict], tokenizer: Tokenizer, length: int) -> Packing:
    """How documents and conversations pack into rows, or comparisons and prompts are padded.

    Raises:
      UserError: if nothing fits.
    """
    left_out = LeftOut()
    if "text" in rows[0]:
        tokens, weights = pack_documents(rows, tokenizer, length)
    elif "messages" in rows[0]:
        tokens, weights = pack_demonstrations(rows, tokenizer, length, left_out)
    elif "completions" in rows[0]:
        tokens, weights, *_ = pad_comparisons(rows, tokenizer, length, left_out)
    else:
        tokens, _ = pad_prompt_records(rows, tokenizer, length, left_out)
        weights = np.zeros(1)  # a prompt is context
    filled, learned = (tokens.segment_ids > 0).mean(), (weights > 0).mean()
    return Packing(len(tokens.ids), float(filled), float(learned), left_out)


def spans(row: dict, tokenizer: Tokenizer | None) -> Iterator[Span]:
    """What is laid out of a row, in stretches that count alike."""
    if "text" in row:
        yield row["text"], "learned"
        return
    turns = row.get("messages") or row["prompt"]
    if tokenizer is None:
        for turn in turns:
            learned = turn["role"] == "assistant" and "messages" in row
            yield f"{turn['role']}: ", "context"
            yield turn["content"] + "\n", "learned" if learned else "context"
    elif "messages" in row:
        yield from _by_mask(*chat.render(turns, tokenizer), tokenizer)
    else:
        ids = chat.render_prompt(turns, tokenizer)
        yield tokenizer.decode(ids, skip_special=False) + "\n", "context"
    best = min(row.get("ranks", [0]))
    for text, rank in zip(row.get("completions", ()), row.get("ranks", ()), strict=True):
        yield f"[{rank}] {text}\n", "better" if rank == best else "worse"


def _by_mask(ids: list[int], mask: list[int], tokenizer: Tokenizer) -> Iterator[Span]:
    edges = [0, *(i for i in range(1, len(ids)) if mask[i] != mask[i - 1]), len(ids)]
    for start, end in zip(edges, edges[1:], strict=False):
        text = tokenizer.decode(ids[start:end], skip_special=False)
        yield text, "learned" if mask[start] else "context"
