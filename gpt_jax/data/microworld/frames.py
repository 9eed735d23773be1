"""Statements in any phrasing: a sentence without its names is looked up in a table.

"Mira's home isn't in Torby" becomes the frame "home of PERSON is in PLACE", with the contents
Mira and Torby, and a negation. The table of frames comes from the phrasings of the relations.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from gpt_jax.data.microworld.language import RELATIONS
from gpt_jax.data.microworld.phrasings import ANSWERS_IS, NOUNS, PREPOSITIONS, STATEMENTS
from gpt_jax.data.microworld.wordings import (
    ADVERBS,
    ARTICLES,
    GRAMMAR,
    NEGATIONS,
    OWNED,
    PLAIN_VERBS,
    PRONOUNS,
    REPEATED,
    SCRAPS,
)

MOST_ADVERBS = 2
PRONOUN = "PRONOUN"
_ALL_NOUNS = frozenset(noun for nouns in NOUNS.values() for noun in nouns)
_FIRST_OF_NOUNS = frozenset(noun.split()[0] for noun in _ALL_NOUNS)
_ANY_FRIEND = frozenset("best good close dear".split())
_BETWEEN = {"home": " in", "region": " in", "spot": " in"}


class Shape(NamedTuple):
    """A clause without its names.

    Attributes:
      frame: plain words; a name or value is its type in capitals, he, she and it are PRONOUN.
      contents: the names and values, in the order of the capitals.
      negations: how often it was negated; the words that do so are not in the frame.
    """

    frame: tuple[str, ...]
    contents: tuple[str, ...]
    negations: int


class Reading(NamedTuple):
    """What a frame states; `subject` and `value` are places in the contents, None a pronoun."""

    relation: str
    subject: int | None
    value: int


def is_salad(words: tuple[str, ...]) -> bool:
    """Whether words stand as no sentence has them: one twice, or an article before no noun."""
    return words[-1] in ARTICLES or any(
        (word == after and word not in REPEATED)
        or (word in ARTICLES and (after in ARTICLES or after in GRAMMAR or not after.isalnum()))
        for word, after in zip(words, words[1:])
    )


def shape(words: tuple[str, ...], lexicon: Mapping[str, tuple[str, str]]) -> Shape | None:
    """The shape of a clause; None if no sentence has its words in such an order.

    Args:
      lexicon: {word: (its type in capitals, its spelling)} of all names and values.
    """
    frame: list[str] = []
    contents: list[str] = []
    adverbs, negations = 0, 0
    for word, after in zip(words, (*words[1:], "")):
        if word in lexicon:
            kind, spelling = lexicon[word]
            frame.append(kind)
            contents.append(spelling)
        elif word in NEGATIONS:
            negations += 1
            if word == "no" and frame[-1:] != ["have"]:
                return None
            if frame and frame[-1] in ("do", "does", "did"):
                frame.pop()
        elif word in ADVERBS:
            adverbs += 1
        elif word in OWNED:
            frame += [PRONOUN, "'s"] if after in _FIRST_OF_NOUNS else []
        elif word in PRONOUNS:
            frame.append(PRONOUN)
        elif word == "friend" and frame and frame[-1] in _ANY_FRIEND:
            frame[-1] = "friend"
        elif word not in ARTICLES and word != ",":
            frame.append(word if word == "'s" else PLAIN_VERBS.get(word, word))
    if adverbs > MOST_ADVERBS:
        return None
    return Shape(tuple(_without_possessives(frame)), tuple(contents), negations)


@lru_cache(maxsize=1)
def scraps() -> frozenset[str]:
    """The plain words of statements: a clause of such words alone is a piece of one."""
    return GRAMMAR | SCRAPS | {word for frame in table() for word in frame if word.islower()}


def _without_possessives(frame: list[str]) -> list[str]:
    """ "PERSON 's job" is "job of PERSON"; any other 's is short for is."""
    while "'s" in frame:
        at = frame.index("'s")
        start = at - 3 if at > 2 and frame[at - 2] == "of" else max(at - 1, 0)
        owner = frame[start:at]
        for length in (2, 1):
            noun = frame[at + 1 : at + 1 + length]
            if " ".join(noun) in _ALL_NOUNS and owner and owner[-1].isupper():
                rest = frame[at + 1 + length :]
                frame = [*frame[:start], *noun, "of", *owner, *rest]
                break
        else:
            frame = [*frame[:at], "is", *frame[at + 1 :]]
    return frame


@lru_cache(maxsize=1)
def table() -> dict[tuple[str, ...], list[Reading]]:
    """Every frame that states something, with its readings."""
    found: dict[tuple[str, ...], list[Reading]] = {}
    for name, relation in RELATIONS.items():
        subjects = {"thing": ("THING", "OBJECT")}.get(relation.subject, (relation.subject.upper(),))
        for text in _ways_to_say(name):
            for subject in (*subjects, PRONOUN):
                frame = _frame(text, s=subject, v=relation.value.upper())
                places = [slot for slot in _slots(text) if slot == "v" or subject != PRONOUN]
                at = places.index("s") if "s" in places else None
                reading = Reading(name, at, places.index("v"))
                readings = found.setdefault(frame, [])
                if reading not in readings:
                    readings.append(reading)
    return found


@lru_cache(maxsize=1)
def bare() -> frozenset[tuple[str, ...]]:
    """Every frame of a value that is an answer by itself."""
    nouns = [f"{noun} is" for noun in sorted(_ALL_NOUNS)]
    return frozenset(
        _frame(" ".join((lead, preposition, "{v}")), s="", v=value.upper())
        for value, prepositions in PREPOSITIONS.items()
        for preposition in ("", *prepositions)
        for lead in ("", *ANSWERS_IS, *nouns)
    )


def _ways_to_say(name: str) -> list[str]:
    relation = RELATIONS[name]
    ways = [text.rstrip(".") for text in relation.statements] + list(STATEMENTS[name])
    for noun in NOUNS[name]:
        for between in {"", _BETWEEN.get(name, "")}:
            ways += [f"{noun} of {{s}} is{between} {{v}}", f"{noun} for {{s}} is{between} {{v}}"]
        ways += [f"{{v}} is {noun} of {{s}}", f"{{s}} has {{v}} as {noun}"]
    return [*ways, "{s} : {v}"]


def _slots(text: str) -> list[str]:
    return [part[0] for part in text.split("{")[1:]]


def _frame(text: str, s: str, v: str) -> tuple[str, ...]:
    words = text.lower().replace("{s}", " S ").replace("{v}", " V ").replace(",", " ").split()
    made = shape(tuple(words), {"S": (s, ""), "V": (v, "")})
    return made.frame
