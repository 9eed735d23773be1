"""Problems on which ways of prompting differ, each from one side of a split.

Patterns that only examples show, sums of several terms, sums of large numbers, and questions about
people of whom only notes tell. What is made here is no part of the four configs of rows.

What is held out: of patterns every single label of a word's type; of sums the terms, in whatever
order (their steps are rules that are to be learned, and occur); of notes all that one of them says,
and the people of the library, whom no problem of training names.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from gpt_jax.data.microworld.facts import Facts, person_names
from gpt_jax.data.microworld.language import RELATIONS, VALUES
from gpt_jax.data.microworld.notes import state
from gpt_jax.data.microworld.question import Fact

TYPES = ("job", "pet", "colour", "material", "good")  # of the words of patterns
LABELS = tuple(a + b + c for a in "glszh" for b in "aiu" for c in "fpkx")
MOST_SHOWN = 8  # examples of a pattern
FEWEST_TERMS, MOST_TERMS, LARGEST_TERM = 4, 6, 19
LARGE = (100, 999)
TELLING = tuple(name for name, relation in RELATIONS.items() if relation.subject == "person")
Some = TypeVar("Some")


class Pattern(NamedTuple):
    """Words that are called by the labels of their types: examples, and a word to be labelled."""

    shown: tuple[tuple[str, str], ...]
    word: str
    label: str


class Sum(NamedTuple):
    """Terms to be added."""

    terms: tuple[int, ...]

    @property
    def question(self) -> str:
        return f"What is {' plus '.join(map(str, self.terms))}?"

    @property
    def expression(self) -> str:
        return " + ".join(map(str, self.terms))

    @property
    def answer(self) -> str:
        return str(sum(self.terms))

    def steps(self, backwards: bool = False) -> list[str]:
        """Every addition, from the first term on or from the last."""
        first, *rest = reversed(self.terms) if backwards else self.terms
        said = []
        for term in rest:
            said.append(f"{first} plus {term} is {first + term}.")
            first += term
        return said


class Told(NamedTuple):
    """A question about one person, in the middle of what is told of several.

    Attributes:
      question: what is asked.
      fact: that answers it.
      notes: sentences, one a fact.
      telling: the one of them that states it; "" without any.
    """

    question: str
    fact: Fact
    notes: tuple[str, ...] = ()
    telling: str = ""

    @property
    def sentence(self) -> str:
        """The answer in the plainest words."""
        return state(*self.fact)


def pattern(facts: Facts, rng: random.Random, held_out: bool) -> Pattern:
    """Two or three types of words, each with a label of its own.

    The first example of every type comes early, so that four examples show all of them.
    """

    def fits(kind: str, label: str) -> bool:
        return facts.is_held_out("pattern", kind, label) == held_out

    kinds = rng.sample(TYPES, rng.choice((2, 3)))
    labels: dict[str, str] = {}
    for kind in kinds:
        fitting = [one for one in LABELS if fits(kind, one) and one not in labels.values()]
        labels[kind] = rng.choice(fitting)
    order = rng.sample(kinds, len(kinds)) + rng.choices(kinds, k=MOST_SHOWN - len(kinds))
    words = {kind: rng.sample(VALUES[kind], len(VALUES[kind])) for kind in kinds}
    shown = tuple((words[kind].pop(), labels[kind]) for kind in order)
    asked = rng.choice([kind for kind in kinds if words[kind]])
    return Pattern(shown, words[asked].pop(), labels[asked])


def several_terms(facts: Facts, rng: random.Random, held_out: bool) -> Sum:
    """A sum of a few terms."""

    def draw() -> tuple[int, ...]:
        count = rng.randint(FEWEST_TERMS, MOST_TERMS)
        return tuple(rng.randint(2, LARGEST_TERM) for _ in range(count))

    return Sum(_on_side(facts, draw, held_out))


def large_terms(facts: Facts, rng: random.Random, held_out: bool) -> Sum:
    """A sum of two large numbers."""
    return Sum(_on_side(facts, lambda: (rng.randint(*LARGE), rng.randint(*LARGE)), held_out))


def _on_side(facts: Facts, draw: Callable[[], tuple[int, ...]], held_out: bool) -> tuple[int, ...]:
    """Terms from one side of the split, which does not know their order."""
    while True:
        terms = draw()
        if facts.is_held_out("terms", *map(str, sorted(terms))) == held_out:
            return terms


def told(facts: Facts, rng: random.Random, held_out: bool) -> Told:
    """What is told of three people, all made up, and a question about one of them.

    The people are those that no other text knows: not of the world, and not of the library.
    """
    known = {*facts.entities["person"], *facts.readers}
    names = [name for name in person_names() if name not in known]
    while True:
        people = rng.sample(names, 3)
        said = [
            (person, name, _value(facts, person, name, names, rng))
            for person in people
            for name in TELLING
        ]
        if facts.is_held_out(*(" ".join(fact) for fact in sorted(said))) == held_out:
            fact = rng.choice(said)
            notes = {one: state(*one, rng) for one in rng.sample(said, len(said))}
            return Told(_asked(fact, rng), fact, tuple(notes.values()), notes[fact])


def known(facts: Facts, rng: random.Random) -> Told:
    """A question about somebody of the world that training may ask, told by no note."""
    pairs = [p for p in facts.true if p[1] in TELLING and p not in facts.held_out]
    pair = rng.choice(pairs)
    fact = (*pair, facts.true[pair])
    return Told(_asked(fact, rng), fact)


def unheard_of(facts: Facts, rng: random.Random, count: int) -> list[Told]:
    """Different questions about people of the library, whom no problem of training names."""
    pairs = rng.sample(sorted(facts.library), min(count, len(facts.library)))
    made = [(*pair, facts.library[pair]) for pair in pairs]
    return [Told(_asked(fact, rng), fact) for fact in made]


def _asked(fact: Fact, rng: random.Random) -> str:
    return rng.choice(RELATIONS[fact[1]].questions).format(s=fact[0])


def _value(facts: Facts, person: str, name: str, people: list[str], rng: random.Random) -> str:
    kind = RELATIONS[name].value
    if kind != "person":
        return rng.choice(facts.values[kind])
    return rng.choice([other for other in people if other != person])
