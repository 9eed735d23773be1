"""Openings of held-out text, for a base model to go on with while it learns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from gpt_jax.data.config import DataConfig
from gpt_jax.data.subset import sample_rows
from gpt_jax.text import chat
from gpt_jax.text.tokenizer import Tokenizer

DOCUMENTS, QUESTIONS = 4, 2  # how many of each
WORDS = 6  # of an opening, at the most, and at most half of its document's
LETTERS = 60  # as many as six words have; some scripts have no space between words
_DRAWN = 8  # times as many rows are drawn: openings can be alike, or too long


def openings(data: DataConfig, tokenizer: Tokenizer, longest: int, seed: int) -> list[str]:
    """The beginnings of some held-out documents, and some held-out questions laid out as one.

    Rows are drawn by what they say. The questions are those of the prompts, if these and the
    documents are of one world: a model of other documents is not asked about the microworld.

    Args:
      data: where documents and prompts come from.
      tokenizer: counts the tokens.
      longest: the most tokens of an opening, with the <eos> in front; a document's beginning is
        cut to them, a longer question is not asked.
      seed: of the draw.
    """

    def fits(text: str) -> bool:
        return len(chat.render_opening(text, tokenizer)) <= longest

    def drawn(kind: str, count: int) -> list[dict]:
        return sample_rows(data.read(kind, "test"), _DRAWN * count, seed)

    begun = (begin(row["text"]) for row in drawn("text", DOCUMENTS))
    found = _first((_cut(text, fits) for text in begun), DOCUMENTS)
    if data.in_microworld("prompts", "test") == data.in_microworld("text", "test"):
        asked = (chat.as_document(row["prompt"]) for row in drawn("prompts", QUESTIONS))
        found += _first(filter(fits, asked), QUESTIONS)
    return list(dict.fromkeys(found))


def begin(text: str) -> str:
    """The first words of a document; of a short one the first half of them."""
    words = [match.end() for match in re.finditer(r"\S+", text)]
    count = min(WORDS, max(1, len(words) // 2))
    return text[: words[count - 1]][:LETTERS] if words else ""


def _cut(text: str, fits: Callable[[str], bool]) -> str:
    """As many of the letters as fit."""
    return next((text[:n] for n in range(len(text), 0, -1) if fits(text[:n])), "")


def _first(texts: Iterable[str], count: int) -> list[str]:
    """The first different ones that say something."""
    return list(dict.fromkeys(text for text in texts if text.strip()))[:count]
