"""Which prompts a model is asked for answers that are to be ranked."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpt_jax.data.config import DataConfig
from gpt_jax.data.left_out import DROPPED, SHORTENED, LeftOut
from gpt_jax.data.packing import round_up
from gpt_jax.data.subset import sample_rows
from gpt_jax.errors import UserError
from gpt_jax.text import chat
from gpt_jax.text.chat import Message
from gpt_jax.text.tokenizer import Tokenizer

NAMES = {"train": "prompts", "test": "held-out prompts"}  # for people


class Asked(NamedTuple):
    """The prompts of one labeling.

    Attributes:
      rows: `{"split", "prompt", "record"}`, the shortest first, so that they are answered in few
        shapes; no prompt of a split is there twice.
      lengths: of their prompts, in tokens.
      left_out: what did not fit.
    """

    rows: list[dict]
    lengths: list[int]
    left_out: LeftOut

    def count(self, split: str) -> int:
        """How many there are of a split."""
        return sum(row["split"] == split for row in self.rows)

    def longest(self, new_tokens: int) -> int:
        """The length that 99 of 100 prompts with an answer of so many tokens fit in."""
        return round_up(int(np.ceil(np.percentile(self.lengths, 99))) + new_tokens)


def choose(
    data: DataConfig, counts: dict[str, int], tokenizer: Tokenizer, room: int, seed: int
) -> Asked:
    """Draws prompts by what they say.

    Args:
      data: whose prompts they are.
      counts: how many of a split, at the most.
      tokenizer: of the model that is to answer.
      room: the most tokens of a prompt; of a longer one old turns are left out, or all of it.
      seed: of the draw.

    Raises:
      UserError: if none fits.
    """
    found, left_out = [], LeftOut()
    for split, count in counts.items():
        rows = _different(data.read("prompts", split))
        add = functools.partial(left_out.add, name=NAMES[split], total=len(rows), limit=room)
        fitting = [row for row in rows if _fit(row, tokenizer, room)]
        add(DROPPED, count=len(rows) - len(fitting))
        if not fitting:
            raise UserError(
                f"none of the {NAMES[split]} fits in {room} tokens; give shorter ones, or lower "
                "--label.max-new-tokens"
            )
        for row in sample_rows(fitting, count, seed):
            kept = _fit(row, tokenizer, room)
            add(SHORTENED, count=len(kept) < len(row["prompt"]))
            found.append((len(chat.render_prompt(kept, tokenizer)), {"split": split, **row}))
    found.sort(key=lambda pair: pair[0])
    lengths, rows = zip(*found, strict=True)
    return Asked(list(rows), list(lengths), left_out)


def _different(rows: Sequence[dict]) -> list[dict]:
    """The first row of every prompt."""
    first = {}
    for row in rows:
        first.setdefault(json.dumps(row["prompt"]), row)
    return list(first.values())


def _fit(row: dict, tokenizer: Tokenizer, room: int) -> list[Message] | None:
    """As much of a prompt as fits in `room` tokens."""
    return chat.shorten(row["prompt"], tokenizer, room)
