"""What a conversation is made of before it is tokens: pieces of text, whose they are, and for what.

A template turns messages into pieces (`templates`, `jinja`), and `chat` turns pieces into ids and a
loss mask. Only what the template itself wrote can become a special token: a piece of somebody's
words that spells one stays words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple, TypedDict


class Message(TypedDict):
    role: str  # "system", "user" or "assistant"; MOSS's plugins have more
    content: str


class Marks(NamedTuple):
    """The texts of a tokenizer's special tokens, as templates know them.

    Attributes:
      bos, eos, pad: as its files name them; "" for one that it lacks.
      specials: all of them.
      declared: those that the tokenizer itself calls special. Others a template is made of, as
        <think>, which the assistant may say.
      stops: those that end what the assistant says, or a document.
    """

    bos: str
    eos: str
    pad: str
    specials: tuple[str, ...]
    declared: tuple[str, ...]
    stops: tuple[str, ...]

    def fill(self, text: str) -> str:
        """A template's text with the tokenizer's own tokens for `{bos}` and `{eos}`."""
        return text.replace("{bos}", self.bos).replace("{eos}", self.eos)


class Piece(NamedTuple):
    """A stretch of a conversation.

    Attributes:
      text: as it will be read.
      markup: whether a special token that it spells is meant: the template wrote it.
      spoken: whether the assistant says it, and it is learned. What is spoken and what is not never
        share a token, so that a prompt's ids go on with those of its completion.
    """

    text: str
    markup: bool = False
    spoken: bool = False


class Ends(NamedTuple):
    """What stands around the assistant's words.

    Attributes:
      before: the end of a conversation that waits for them.
      space: what the assistant says before the first word.
      closing: what the assistant ends with.
    """

    before: str
    space: str
    closing: str


def any_of(texts: Iterable[str]) -> str:
    """A regular expression for any of some texts, the longest first; of none, one that is nowhere
    found."""
    longest = sorted(filter(None, texts), key=lambda text: (-len(text), text))
    return "|".join(map(re.escape, longest)) or r"(?!)"
