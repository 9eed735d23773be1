"""A chat template that is a few texts around the words of every turn."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gpt_jax.errors import UserError
from gpt_jax.text.layout import Ends, Marks, Message, Piece


class Turn(NamedTuple):
    """How a turn of one role is laid out.

    Attributes:
      opens, closes: what stands around its words; the assistant learns to say `closes`.
      after: what follows and is not learned.
      spoken: whether the assistant says it.
      trimmed: whether white space around its words is taken off.
    """

    opens: str
    closes: str = ""
    after: str = ""
    spoken: bool = False
    trimmed: bool = False


@dataclasses.dataclass(frozen=True)
class Template:
    """A chat template.

    Attributes:
      name: what people call it.
      jinja: the same layout as a Jinja template.
      turns: by role.
      tokens: the special tokens that it is made of, besides the tokenizer's own.
      begins: stands in front of all turns.
      system: what the system says where a conversation does not tell.
      folded: whether the system has no turn, and its words begin the user's first.
      space: what stands before the assistant's first word, which the assistant says.
      forged: where a space is put into anybody's words; None: markers are tokens, not text.
    """

    name: str
    jinja: str
    turns: Mapping[str, Turn] = dataclasses.field(hash=False)
    tokens: tuple[str, ...] = ()
    begins: str = ""
    system: str | None = None
    folded: bool = False
    space: str = ""
    forged: re.Pattern | None = None

    def pieces(
        self, messages: Sequence[Message], marks: Marks, waiting: bool = False
    ) -> list[Piece]:
        """The conversation laid out; `waiting`: up to where the assistant speaks next.

        Raises:
          UserError: if a role has no turn here.
        """
        messages = list(messages)
        if self.system is not None and (not messages or messages[0]["role"] != "system"):
            messages = [Message(role="system", content=self.system), *messages]
        front = ""
        if self.folded and messages and messages[0]["role"] == "system":
            words, messages = messages[0]["content"], messages[1:]
            front = self._words(words, Turn("", trimmed=True)) + "\n\n"
            if not messages or messages[0]["role"] != "user":
                raise UserError(
                    f"the chat template {self.name} has no turn for the system, and its words need "
                    "a user's turn right behind them"
                )
        found = [Piece(marks.fill(self.begins), markup=True)]
        for message in messages:
            turn = self._turn(message["role"])
            words = self._words(message["content"], turn)
            found.append(Piece(marks.fill(turn.opens), markup=True))
            if turn.spoken:
                found += self._spoken(words, turn, True, marks)
            else:
                found += [Piece(front + words), Piece(marks.fill(turn.closes), markup=True)]
            found.append(Piece(marks.fill(turn.after), markup=True))
            front = ""
        if waiting:
            found.append(Piece(marks.fill(self._turn("assistant").opens), markup=True))
        return found

    def completion(self, text: str, stopped: bool, marks: Marks) -> list[Piece]:
        """What follows a conversation that waits: the assistant's words, and what ends them."""
        turn = self._turn("assistant")
        return self._spoken(self._words(text, turn), turn, stopped, marks)

    def ends(self, marks: Marks) -> Ends:
        """What stands around the assistant's words."""
        asked, said = self._turn("user"), self._turn("assistant")
        before = asked.closes + asked.after + said.opens
        return Ends(marks.fill(before), self.space, marks.fill(said.closes))

    def _turn(self, role: str) -> Turn:
        if role not in self.turns:
            raise UserError(
                f"the chat template {self.name} has no turn for the role {role!r}; it has those of "
                + ", ".join(self.turns)
            )
        return self.turns[role]

    def _spoken(self, words: str, turn: Turn, stopped: bool, marks: Marks) -> list[Piece]:
        said = [Piece(self.space + words, spoken=True)]
        return said + [Piece(marks.fill(turn.closes), markup=True, spoken=True)] * stopped

    def _words(self, text: str, turn: Turn) -> str:
        """Somebody's words, with a space in each marker of a turn that they spell."""
        text = text.strip() if turn.trimmed else text
        if self.forged is None:
            return text
        before = turn.opens[-1:] or "\n"  # a marker counts at the beginning of a line alone
        return self.forged.sub(" ", before + text)[1:]
