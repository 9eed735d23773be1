"""Completions that are marked as good or bad -> rows for KTO.

feedback   {"prompt": messages ending with the user, "completion": str, "label": bool,
            "stopped": bool}
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from gpt_jax.data.batches import Tokens
from gpt_jax.data.left_out import LeftOut
from gpt_jax.data.packing import comparison_length, pad_comparisons, without_empty
from gpt_jax.errors import UserError
from gpt_jax.text.tokenizer import Tokenizer


class Feedback(NamedTuple):
    """Marked completions, each behind its prompt; and behind the same prompt one of another.

    Attributes:
      tokens_BKT: K = 2: the row's own completion, and a mismatched one. Right-padded.
      weights_BKT: float32, 1 on the tokens of the completion (its stop token included), else 0.
      signs_B: int32, 1 desirable, -1 undesirable, 0 an empty row.
      kl_B: float32, the estimate of the whole batch in every row, once a step has made it.
    """

    tokens_BKT: Tokens
    weights_BKT: ArrayLike
    signs_B: ArrayLike
    kl_B: ArrayLike | None = None


def unpair(comparisons: Sequence[dict], left_out: LeftOut, name: str) -> list[dict]:
    """Ranked completions as feedback: each is good that beats more of its prompt's others than beat
    it, bad if more beat it. What is in the middle is left out and counted.

    Of two completions one is good and one is bad, as other libraries have it.
    """
    rows, middle = [], 0
    for row in comparisons:
        for text, rank, stopped in zip(
            row["completions"], row["ranks"], row["stopped"], strict=True
        ):
            balance = sum(np.sign(other - rank) for other in row["ranks"])
            middle += not balance
            if balance:
                rows.append(
                    {
                        "prompt": row["prompt"],
                        "completion": text,
                        "label": bool(balance > 0),
                        "stopped": stopped,
                    }
                )
    left_out[f"{name} left out, as they are neither good nor bad among their prompt's"] += middle
    return rows


def mismatched(rows: Sequence[dict], name: str) -> list[dict]:
    """The rows as comparisons of their own completion with one that answers another prompt.

    Rows of a prompt stand together, and each takes the completion that stands as many rows later as
    the commonest prompt has: it is always another's.

    Raises:
      UserError: if more than half of the rows have one prompt.
    """
    prompts = [repr(row["prompt"]) for row in rows]
    shift = max(collections.Counter(prompts).values())
    if 2 * shift > len(rows):
        raise UserError(
            f"{shift} of the {len(rows)} rows of {name} have one prompt, but KTO needs answers to "
            "other prompts beside each; give rows of more prompts"
        )
    order = sorted(range(len(rows)), key=lambda n: prompts[n])
    other_of = {n: order[(place + shift) % len(order)] for place, n in enumerate(order)}
    return [
        {
            "prompt": row["prompt"],
            "completions": [row["completion"], rows[other_of[n]]["completion"]],
            "ranks": [0, 1],
            "stopped": [row["stopped"], rows[other_of[n]]["stopped"]],
        }
        for n, row in enumerate(rows)
    ]


def pad_feedback(
    rows: Sequence[dict],
    tokenizer: Tokenizer,
    longest: int,
    left_out: LeftOut,
    name: str = "feedback",
) -> tuple[Feedback, np.ndarray]:
    """Feedback rows -> a bundle of NumPy arrays, and the number of the record of each of its rows.

    Args:
      rows: the records.
      tokenizer: of the model.
      longest: the most tokens of a prompt with a completion.
      left_out: counts what did not fit.
      name: of the rows there.

    Raises:
      UserError: if nothing fits, or most rows have one prompt.
    """
    padded = pad_comparisons(mismatched(rows, name), tokenizer, longest, left_out, name)
    kept, numbers = without_empty(padded, name, longest)
    signs = np.array([1 if row["label"] else -1 for row in rows], np.int32)
    return Feedback(kept.tokens_BKT, kept.weights_BKT, signs[numbers]), numbers


def feedback_length(rows: Sequence[dict], tokenizer: Tokenizer, longest: int) -> int:
    """The length that 99 of 100 prompts with either completion fit in."""
    return comparison_length(mismatched(rows, "feedback"), tokenizer, longest)
