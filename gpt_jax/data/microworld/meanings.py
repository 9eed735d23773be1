"""What one clause of a reply may mean, and what it says once that is compared with the truth."""

from typing import NamedTuple

from gpt_jax.data.microworld.question import Fact


class Said(NamedTuple):
    """What one clause says.

    Attributes:
      kind: answer (the asked one), true (but no answer), false, unknown (that it is not known),
        talk, nothing, or unclear.
      facts: what it states.
      bare: whether it is a value without a sentence.
      talk: the key word of small talk.
    """

    kind: str
    facts: tuple[Fact, ...] = ()
    bare: bool = False
    talk: str = ""


class Statement(NamedTuple):
    """What a clause may state, before it is compared with what is known.

    Attributes:
      subject: None where a pronoun stands for it.
      way: the facts by which the subject was found, as in "the friend of Mira".
    """

    subject: str | None
    relation: str
    value: str
    negated: bool
    way: tuple[Fact, ...]


class Bare(NamedTuple):
    """A value by itself."""

    value: str
    negated: bool


class Topic(NamedTuple):
    """A name by itself: the rest of the sentence speaks of it."""

    name: str


Meaning = Said | Statement | Bare | Topic

NOTHING, UNCLEAR, UNKNOWN = Said("nothing"), Said("unclear"), Said("unknown")
FALSE, TRUE = Said("false"), Said("true")
