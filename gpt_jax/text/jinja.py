"""Chat templates in Jinja, as models are published with: run in a sandbox, their mask derived.

Nobody's words can become a special token. Where a message spells one, or a part of one at its
edge, this part is rendered as a placeholder that cannot be guessed, and put back as ordinary text
once the template has done its work. All other words the template sees as they are, since templates
trim and search them.

The mask is derived turn by turn: what is rendered of the messages before a turn, with the opening
of the assistant's next turn, must begin what is rendered of the messages through that turn, and
this the whole. What lies between is the assistant's, up to the token that ends it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

from gpt_jax.errors import UserError
from gpt_jax.text.layout import Ends, Marks, Message, Piece, any_of

_KEY = secrets.token_hex(16)  # of this process; what it stands for is put back, so no result shows
_PLACEHOLDER = re.compile(f"\ue000{_KEY}_([0-9]+)\ue001")
_PROBE = "Qx7"  # words that no template looks for


@dataclasses.dataclass(frozen=True)
class JinjaTemplate:
    """A chat template in Jinja, known by its source alone."""

    jinja: str

    name = "jinja"
    tokens = ()

    def pieces(
        self, messages: Sequence[Message], marks: Marks, waiting: bool = False
    ) -> list[Piece]:
        """The conversation laid out; `waiting`: up to where the assistant speaks next.

        Raises:
          UserError: if the template refuses the conversation or, where a mask is wanted, its turns
            do not nest or nothing ends what the assistant says.
        """
        safe, hidden = _hide(messages, marks)
        whole = self._render(safe, marks, waiting)
        spans = []
        for number, message in enumerate(safe):
            if message["role"] != "assistant":
                continue
            span = self._spoken(safe, number, marks, whole)
            if span is None and waiting:  # a prompt needs no mask
                return _show([Piece(whole, markup=True)], hidden)
            if span is None:
                raise UserError(
                    f"the chat template does not keep what stands before turn {number + 1} as it "
                    "was when that turn began, so no loss mask can be derived; choose one of the "
                    "templates that are known by name"
                )
            spans.append(span)
        return _show(_cut(whole, spans, marks), hidden)

    def completion(self, text: str, stopped: bool, marks: Marks) -> list[Piece]:
        """What follows a conversation that waits: the assistant's words, and what ends them."""
        asked = Message(role="user", content=_PROBE)
        said = Message(role="assistant", content=text)
        spoken = [piece for piece in self.pieces([asked, said], marks) if piece.spoken]
        return spoken if stopped else spoken[:-1]

    def ends(self, marks: Marks) -> Ends:
        """What stands around the assistant's words, as a short conversation shows."""
        return _ends(self, marks)

    def _spoken(
        self, messages: list[Message], number: int, marks: Marks, whole: str
    ) -> tuple[int, int] | None:
        """Where in the whole the assistant's turn begins and ends; None if turns do not nest."""
        before = self._render(messages[:number], marks, True)
        through = self._render(messages[: number + 1], marks, False)
        nested = through.startswith(before) and whole.startswith(through)
        return (len(before), len(through)) if nested else None

    def _render(self, messages: list[Message], marks: Marks, waiting: bool) -> str:
        template = _compiled(self.jinja)
        import jinja2

        try:
            return template.render(
                messages=messages,
                add_generation_prompt=waiting,
                tools=None,
                documents=None,
                bos_token=marks.bos,
                eos_token=marks.eos,
                pad_token=marks.pad,
            )
        except jinja2.TemplateError as error:
            raise UserError(
                f"the chat template refuses this conversation: {error}; change its turns, or "
                "choose one of the templates that are known by name"
            ) from error
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            raise UserError(
                f"the chat template fails on this conversation ({type(error).__name__}: {error}); "
                "mend it, or choose one of the templates that are known by name"
            ) from error


def _cut(whole: str, spans: list[tuple[int, int]], marks: Marks) -> list[Piece]:
    """The pieces of a rendered conversation: what is spoken, up to the first stop token."""
    stops = re.compile(any_of(marks.stops))
    found, at = [], 0
    for start, end in spans:
        stop = stops.search(whole, start, end)
        if stop is None:
            raise UserError(
                "the chat template ends what the assistant says with none of the stop tokens "
                f"{', '.join(marks.stops) or '(there are none)'}; give eos_token_id in "
                "generation_config.json, or choose one of the templates that are known by name"
            )
        found += [
            Piece(whole[at:start], markup=True),
            Piece(whole[start : stop.start()], markup=True, spoken=True),
            Piece(stop.group(), markup=True, spoken=True),
        ]
        at = stop.end()
    return [*found, Piece(whole[at:], markup=True)]


@functools.lru_cache(maxsize=64)
def _ends(template: JinjaTemplate, marks: Marks) -> Ends:
    """Around the words of a probe; behind them stands the first special token, a stop or not."""
    asked, said = (Message(role=role, content=_PROBE) for role in ("user", "assistant"))
    before = template._render([asked], marks, True)
    whole = template._render([asked, said], marks, False)
    if not whole.startswith(before):
        return Ends(before, "", "")
    specials = re.compile(any_of(marks.specials))
    space, _, behind = whole[len(before) :].partition(_PROBE)
    closing = specials.search(behind)
    return Ends(before, "" if specials.search(space) else space, closing.group() if closing else "")


def _hide(messages: Sequence[Message], marks: Marks) -> tuple[list[Message], list[str]]:
    """The messages with placeholders for all that could be read as a special token, or become one
    together with what the template writes beside it; and what the placeholders stand for."""
    hidden: list[str] = []

    def hide(text: str) -> str:
        hidden.append(text)
        return f"\ue000{_KEY}_{len(hidden) - 1}\ue001"

    def safe(text: str, specials: tuple[str, ...]) -> str:
        edges = _edges(specials)
        text = edges.whole.sub(lambda found: hide(found.group()), text)
        core = text.strip()  # a template may trim the white space around it
        if not core or any(core in special for special in specials):
            return text.replace(core, hide(core)) if core else text
        sizes = range(min(edges.longest, len(core)), 0, -1)
        head = next((n for n in sizes if core[:n] in edges.heads), 0)
        tail = len(core) - next((n for n in sizes if core[-n:] in edges.tails), 0)
        head = min(head, tail)
        parts = [hide(core[:head]) if head else "", core[head:tail]]
        parts += [hide(core[tail:]) if core[tail:] else ""]
        return text.replace(core, "".join(parts))

    found = []
    for message in messages:
        role, content = message["role"], message["content"]
        if not re.fullmatch(r"\w+", role):
            raise UserError(f"a turn has the role {role!r}; give a role of one word")
        specials = marks.declared if role == "assistant" else marks.specials
        found.append(Message(role=role, content=safe(content, specials)))
    return found, hidden


class _Edges(NamedTuple):
    """What of special tokens a text may hold: whole ones, and at its edges parts of one."""

    whole: re.Pattern
    heads: frozenset[str]  # ends of them, with which a text may begin
    tails: frozenset[str]  # beginnings of them, with which it may end
    longest: int


@functools.lru_cache(maxsize=8)
def _edges(specials: tuple[str, ...]) -> _Edges:
    return _Edges(
        re.compile(any_of(specials)),
        frozenset(text[i:] for text in specials for i in range(1, len(text))),
        frozenset(text[:i] for text in specials for i in range(1, len(text))),
        max(map(len, specials), default=0),
    )


def _show(pieces: list[Piece], hidden: list[str]) -> list[Piece]:
    """The same pieces, with what the placeholders stand for as ordinary text."""
    found = []
    for piece in pieces:
        parts = _PLACEHOLDER.split(piece.text)
        for number, part in enumerate(parts):
            text, markup = (hidden[int(part)], False) if number % 2 else (part, piece.markup)
            found.append(Piece(text, markup, piece.spoken))
    return found


@functools.lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    """The template, as Hugging Face's library would compile it, but without the day's date: what is
    trained on must not depend on the day. Templates have a date of their own where it is missing.
    """
    try:
        import jinja2
        import jinja2.ext
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ModuleNotFoundError as error:
        raise UserError(
            "this tokenizer's chat template is in Jinja; `pip install jinja2` first, or choose one "
            "of the templates that are known by name"
        ) from error

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)  # fmt: skip

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    # A template may mark what is generated for training; here that is derived.
    source = re.sub(r"(\{%-?\s*)generation(\s*-?%\})", r"\1if true\2", source)
    source = re.sub(r"(\{%-?\s*)endgeneration(\s*-?%\})", r"\1endif\2", source)
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise UserError(f"the chat template is no Jinja ({error}); mend it") from error
