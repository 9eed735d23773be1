"""Messages -> token ids and loss mask: the only place where turns are laid out or a mask is made.

    <|system|> be brief<|user|> hello<|assistant|> hi!<eos><|user|> bye<|assistant|> bye!<eos>

What the assistant says, and the <eos> that ends it, is trained on (mask 1); all else is context.
This is the layout of a tokenizer that was trained here; others bring their own template. In ours,
every text begins with a space, so that its first word is the token that it is anywhere else: a
byte-level BPE has one token for "Paris" and another for " Paris". `read` takes the space off.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from gpt_jax.errors import UserError
from gpt_jax.text.jinja import JinjaTemplate
from gpt_jax.text.layout import Message as Message
from gpt_jax.text.layout import Piece
from gpt_jax.text.template import Template
from gpt_jax.text.templates import OURS, TEMPLATES
from gpt_jax.text.tokenizer import Tokenizer

NEXT_LINE = "\nUser:"  # in a plain document, where what the assistant says is over
_FORGED = re.compile(r"(?<=[\r\n])(?=(System|User|Assistant):)")  # within a turn


def read(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of a completion, as a `content` that renders to the same ids."""
    return tokenizer.decode(ids).removeprefix(space(tokenizer))


def space(tokenizer: Tokenizer) -> str:
    """What stands before the first word that the assistant says; "" where there is no chat."""
    template = tokenizer.template
    return template.ends(tokenizer.marks).space if template else ""


def render(messages: Sequence[Message], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """A conversation as (ids, mask) of one length; mask 1 on the assistant's words and <eos>.

    Raises:
      UserError: if there is no chat template, or it cannot lay out this conversation.
    """
    return _lay_out(_template(tokenizer).pieces(messages, tokenizer.marks), tokenizer)


def render_prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """A conversation that waits for the assistant: ends with <|assistant|>."""
    pieces = _template(tokenizer).pieces(messages, tokenizer.marks, waiting=True)
    return _lay_out(pieces, tokenizer)[0]


def render_completion(text: str, stopped: bool, tokenizer: Tokenizer) -> list[int]:
    """What follows a prompt: the text, and <eos> if the assistant stopped by itself."""
    template, marks = _template(tokenizer), tokenizer.marks
    before = tokenizer.split(template.ends(marks).before)
    pieces = template.completion(text, stopped, marks)
    return _lay_out(pieces, tokenizer, behind=bool(before) and isinstance(before[-1], int))[0]


def _template(tokenizer: Tokenizer) -> Template | JinjaTemplate:
    if tokenizer.template is None:
        raise UserError(
            "this tokenizer has no chat template, as a base model's; choose one by its name "
            "(--template): " + ", ".join(template.name for template in TEMPLATES)
        )
    return tokenizer.template


def _lay_out(
    pieces: Sequence[Piece], tokenizer: Tokenizer, behind: bool | None = None
) -> tuple[list[int], list[int]]:
    """The ids and the mask of a template's pieces.

    Words that stand together are read together, whoever wrote them, as another library would read
    the whole text; but what is spoken and what is not stays apart.

    Args:
      pieces: of a conversation, or of its end.
      tokenizer: reads them.
      behind: of an end, whether it stands right behind a special token; None: there is nothing
        before.
    """
    parts = _joined(pieces, tokenizer)
    ids: list[int] = []
    mask: list[int] = []
    for part, spoken in parts:
        if isinstance(part, int):
            found, behind = [part], True
        elif behind is None and not spoken:
            found, behind = tokenizer.encode(part), False
        else:
            found, behind = tokenizer.encode_behind(part, bool(behind), spoken), False
        ids += found
        mask += [int(spoken)] * len(found)
    return ids, mask


def _joined(pieces: Sequence[Piece], tokenizer: Tokenizer) -> list[tuple[str | int, bool]]:
    """(words or special token, spoken), with no empty words and none side by side of one kind."""
    parts: list[tuple[str | int, bool]] = []
    for piece in pieces:
        for part in tokenizer.split(piece.text) if piece.markup else [piece.text]:
            before, spoken = parts[-1] if parts else ("", piece.spoken)
            if isinstance(part, str) and isinstance(before, str) and spoken == piece.spoken:
                parts[-1:] = [(before + part, spoken)]
            else:
                parts.append((part, piece.spoken))
    stripped = []
    for number, (part, spoken) in enumerate(parts):
        if isinstance(part, str) and number and isinstance(parts[number - 1][0], int):
            part = part.lstrip() if tokenizer.sides(parts[number - 1][0])[1] else part
        if isinstance(part, str) and number + 1 < len(parts):
            behind = parts[number + 1][0]
            left = isinstance(behind, int) and tokenizer.sides(behind)[0]
            part = part.rstrip() if left else part
        stripped.append((part, spoken))
    return [(part, spoken) for part, spoken in stripped if part != ""]


def render_document(text: str, tokenizer: Tokenizer) -> list[int]:
    """A pretraining document between two <eos>: the first opens it, the last is learned.

    A tokenizer that was not trained here opens it with its own token for that, where texts of its
    model begin with one, and reads the text without a space in front.
    """
    return render_documents([text], tokenizer)[0]


def render_documents(texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """`render_document` of many texts, encoded on all cores."""
    opening = tokenizer.bos_id if tokenizer.begins_with_bos else tokenizer.document_id
    space = " " if tokenizer.template == OURS else ""
    encoded = tokenizer.encode_batch([space + text for text in texts])
    return [[opening, *ids, tokenizer.document_id] for ids in encoded]


def render_opening(text: str, tokenizer: Tokenizer) -> list[int]:
    """The beginning of a document that is to be gone on with."""
    return render_document(text, tokenizer)[:-1]


def render_beginning(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """A prompt of one message as the beginning of a document, in which nobody speaks.

    Raises:
      UserError: if there are several.
    """
    if len(messages) != 1:
        raise UserError(
            f"a prompt of {len(messages)} messages is no beginning of a document; give prompts of "
            "one text each, or leave --layout document out"
        )
    return render_opening(messages[0]["content"], tokenizer)


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
