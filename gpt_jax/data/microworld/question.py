"""A question of the world, with all that is needed to answer it and to judge an answer."""

import re
from dataclasses import dataclass

Fact = tuple[str, str, str]  # subject, relation, value


@dataclass(frozen=True)
class Question:
    """A prompt with its answer.

    Attributes:
      kind: a key of `questions.KINDS`.
      prompt: what is asked.
      answer: the bare right answer, such as `Torby`, `8` or `3, 5, 7`; of small talk the key word
        of a fitting reply. Empty: the prompt does not say, and "I do not know" is right.
      hops: the facts that lead to the answer. The last value is the answer; it is empty where the
        prompt does not say.
      said: all facts that the prompt states.
      terms, operator: of a sum, the numbers in the order they are combined, and + or -.
      items, wanted: of a list or of numbers, what is listed, and what is asked of it: a key of
        `exercises.LISTS` or `exercises.NUMBERS`; after which item is asked for `after`.
      held_out: whether only test splits may ask it.
    """

    kind: str
    prompt: str
    answer: str
    hops: tuple[Fact, ...] = ()
    said: tuple[Fact, ...] = ()
    terms: tuple[int, ...] = ()
    operator: str = ""
    items: tuple[str, ...] = ()
    wanted: str = ""
    after: str = ""
    held_out: bool = False

    @property
    def shown(self) -> str:
        """What the prompt shows before it asks: a note, a story, a table, a list; or nothing."""
        shown, stop, _ = self.prompt.rpartition(". ")
        return shown + stop.strip()

    @property
    def asked(self) -> str:
        """What the prompt asks, without what it shows."""
        return self.prompt.rpartition(". ")[2]

    @property
    def about(self) -> tuple:
        """What is asked, whatever the words: the fact that is the answer, the sum, the list."""
        if self.kind == "fact":
            return self.hops[-1]
        shown = (self.said, self.hops, self.operator, self.terms, self.items, self.wanted)
        return (self.kind, self.answer, *shown)


def pattern(template: str, slots: dict[str, str]) -> re.Pattern:
    """A pattern that reads a template's slots, each by an expression of its own.

    Args:
      template: such as "{s} lives in {v}."
      slots: {slot: regular expression}.
    """
    parts = re.split(r"\{([a-z]+)\}", template)
    for i in range(1, len(parts), 2):
        parts[i] = f"(?P<{parts[i]}>{slots[parts[i]]})"
    return re.compile("".join(p if i % 2 else re.escape(p) for i, p in enumerate(parts)))
