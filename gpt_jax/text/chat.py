"""Messages -> token ids and loss mask: the only place where turns are laid out or a mask is made.

    <|system|> be brief<|user|> hello<|assistant|> hi!<eos><|user|> bye<|assistant|> bye!<eos>

What the assistant says, and the <eos> that ends it, is trained on (mask 1); all else is context.
Every text begins with a space, so that its first word is the token that it is anywhere else: a
byte-level BPE has one token for "Paris" and another for " Paris". `read` takes the space off.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypedDict

from gpt_jax.text.tokenizer import Tokenizer

NEXT_LINE = "\nUser:"  # in a plain document, where what the assistant says is over
_FORGED = re.compile(r"(?<=[\r\n])(?=(System|User|Assistant):)")  # within a turn


class Message(TypedDict):
    role: str  # "system", "user" or "assistant"
    content: str


def _turn_opener(role: str, tokenizer: Tokenizer) -> int:
    return {
        "system": tokenizer.system_id,
        "user": tokenizer.user_id,
        "assistant": tokenizer.assistant_id,
    }[role]


def _encode(text: str, tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode(" " + text)


def read(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of a completion, as a `content` that renders to the same ids."""
    return tokenizer.decode(ids).removeprefix(" ")


def render(messages: Sequence[Message], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """A conversation as (ids, mask) of one length; mask 1 on the assistant's words and <eos>."""
    ids: list[int] = []
    mask: list[int] = []
    for message in messages:
        spoken = message["role"] == "assistant"
        content = _encode(message["content"], tokenizer) + [tokenizer.eos_id] * spoken
        ids += [_turn_opener(message["role"], tokenizer), *content]
        mask += [0] + [int(spoken)] * len(content)
    return ids, mask


def render_prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """A conversation that waits for the assistant: ends with <|assistant|>."""
    ids, _ = render(messages, tokenizer)
    return [*ids, tokenizer.assistant_id]


def render_completion(text: str, stopped: bool, tokenizer: Tokenizer) -> list[int]:
    """What follows a prompt: the text, and <eos> if the assistant stopped by itself."""
    return _encode(text, tokenizer) + [tokenizer.eos_id] * stopped


def render_document(text: str, tokenizer: Tokenizer) -> list[int]:
    """A pretraining document between two <eos>: the first opens it, the last is learned."""
    return [tokenizer.eos_id, *_encode(text, tokenizer), tokenizer.eos_id]


def render_opening(text: str, tokenizer: Tokenizer) -> list[int]:
    """The beginning of a document that is to be gone on with."""
    return render_document(text, tokenizer)[:-1]


def as_document(messages: Sequence[Message]) -> str:
    """The conversation as the beginning of a plain document, up to where the assistant speaks.

    A turn begins with its speaker's name at the start of a line. Where a line within a turn begins
    like that, it is moved in by a space, so that nobody can forge a turn.
    """
    names = {"system": "System", "user": "User", "assistant": "Assistant"}
    lines = [f"{names[m['role']]}: {_FORGED.sub(' ', m['content'])}\n" for m in messages]
    return "".join(lines) + "Assistant:"


def render_document_prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """The same as tokens, for a base model, which never saw the chat tokens."""
    return render_opening(as_document(messages), tokenizer)


def shorter(messages: Sequence[Message]) -> list[list[Message]]:
    """The conversation whole, then without its oldest turn, and so on to its newest turn alone.

    A turn is a user's message and all up to the next one. A system message in front stays.
    """
    head = [m for m in messages[:1] if m["role"] == "system"]
    rest = list(messages[len(head) :])
    starts = [i for i, message in enumerate(rest) if message["role"] == "user" and i]
    return [head + rest[start:] for start in [0, *starts]]


def shorten(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    limit: int,
    render: Callable[[Sequence[Message], Tokenizer], list[int]] = render_prompt,
) -> list[Message] | None:
    """Leaves out whole old turns until a conversation fits; nothing is cut within a turn.

    Args:
      messages: the conversation, which ends with the user's newest message.
      tokenizer: counts the tokens.
      limit: the most tokens.
      render: how the conversation is laid out.

    Returns:
      As much of it as fits, or None if the newest message with the system's alone does not.
    """
    fitting = (some for some in shorter(messages) if len(render(some, tokenizer)) <= limit)
    return next(fitting, None)
