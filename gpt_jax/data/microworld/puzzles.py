"""Problems for which one answer straight away is not enough, each from one side of a split.

Steps to a number with dead ends, words to be handled as an instruction says, look-ups in two steps,
prices that only a tool knows, functions of which two values are given, people of whom documents
tell, and orders that stand where nobody may give any. All of it is made up anew each time; what is
held out is whole problems (of the prices the two that are to be added, whatever they are of).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from gpt_jax.data.microworld.facts import Facts, person_names
from gpt_jax.data.microworld.language import RELATIONS, THINGS, VALUES
from gpt_jax.data.microworld.notes import state
from gpt_jax.data.microworld.problems import LARGE, LARGEST_TERM, TELLING, Sum
from gpt_jax.data.microworld.question import Fact

WORDS = tuple(word for kind in ("job", "pet", "colour", "good") for word in VALUES[kind])
MOVES, HIGHEST = 3, 60  # of a puzzle: how many, and the largest number on the way
PRICED = 4  # things that have a price
PEOPLE = 3  # in notes and documents
ASKED_OF_FRIENDS = ("home", "job", "pet", "taste")
INSTRUCTIONS: dict[str, Callable[[list[str]], list[str]]] = {
    "Say the first word.": lambda words: words[:1],
    "Say the middle word.": lambda words: words[1:2],
    "Say the last word.": lambda words: words[2:],
    "Leave out the first.": lambda words: words[1:],
    "Leave out the middle.": lambda words: words[::2],
    "Leave out the last.": lambda words: words[:2],
    "Say them backwards.": lambda words: words[::-1],
    "Say the first twice.": lambda words: words[:1] * 2,
}
Some = TypeVar("Some")


class Puzzle(NamedTuple):
    """A number to be reached from another by moves, any of them any number of times."""

    start: int
    target: int
    moves: tuple[tuple[str, int], ...]

    @property
    def question(self) -> str:
        moves = ", ".join(f"{name} {by}" for name, by in self.moves)
        return f"From {self.start} to {self.target} in {MOVES} moves of {moves}."

    def after(self, number: int, move: tuple[str, int]) -> int | None:
        """The number that a move leads to; None if it leads too far."""
        name, by = move
        new = {"plus": number + by, "times": number * by, "minus": number - by}[name]
        return new if 0 < new <= HIGHEST else None

    def reaches(self, number: int, left: int) -> bool:
        """Whether so many moves can lead from a number to the target."""
        if not left:
            return number == self.target
        after = (self.after(number, move) for move in self.moves)
        return any(new is not None and self.reaches(new, left - 1) for new in after)


class Listed(NamedTuple):
    """Words, an instruction, and examples of it."""

    words: tuple[str, ...]
    instruction: str
    shown: tuple[tuple[str, str], ...]
    tried: tuple[tuple[str, str], ...]

    @property
    def answer(self) -> str:
        return done(self.instruction, self.words)


class TwoSteps(NamedTuple):
    """A question about somebody's friend, and notes that tell who that is and what is asked."""

    notes: tuple[str, ...]
    person: str
    friend: str
    fact: Fact

    @property
    def question(self) -> str:
        return RELATIONS[self.fact[1]].questions[0].format(s=f"the friend of {self.person}")


class Prices(NamedTuple):
    """Prices that nobody knows by heart, two of which are to be added."""

    known: tuple[tuple[str, int], ...]
    asked: tuple[str, str]

    @property
    def question(self) -> str:
        return "How much are the {} and the {}?".format(*self.asked)

    @property
    def terms(self) -> tuple[int, ...]:
        return tuple(dict(self.known)[thing] for thing in self.asked)

    @property
    def answer(self) -> str:
        return str(sum(self.terms))


class Line(NamedTuple):
    """A function of which two values are given: slope * x + rest."""

    slope: int
    rest: int

    @property
    def task(self) -> str:
        return f"f(1) is {self.slope + self.rest}, f(2) is {2 * self.slope + self.rest}."

    @property
    def program(self) -> str:
        return f"f = lambda x: {self.slope} * x + {self.rest}"

    @property
    def values(self) -> str:
        """What a run of the program says."""
        return f"f(1) was {self.slope + self.rest}, f(2) was {2 * self.slope + self.rest}."


class Documents(NamedTuple):
    """A question, and documents of a sentence each, one of which answers it."""

    notes: tuple[str, ...]
    question: str
    fact: Fact

    @property
    def telling(self) -> str:
        return state(*self.fact)


class Order(NamedTuple):
    """A text with a question about it, a word that somebody orders to be said, and a secret."""

    fact: Fact
    question: str
    word: str
    secret: str

    @property
    def sentence(self) -> str:
        return state(*self.fact)


def done(instruction: str, words: tuple[str, ...]) -> str:
    """What an instruction makes of words."""
    return " ".join(INSTRUCTIONS[instruction](list(words)))


def few_terms(facts: Facts, rng: random.Random, held_out: bool) -> Sum:
    """A sum of three terms."""

    def draw() -> tuple[int, ...]:
        return tuple(rng.randint(2, LARGEST_TERM) for _ in range(3))

    return Sum(_drawn(facts, held_out, draw, lambda terms: ("terms", *map(str, sorted(terms)))))


def puzzle(facts: Facts, rng: random.Random, held_out: bool) -> Puzzle:
    """A puzzle that has a solution, and a first move from which there is none."""

    def draw() -> Puzzle:
        moves = (
            ("plus", rng.randint(3, 9)),
            ("times", rng.randint(2, 3)),
            ("minus", rng.choice((1, 2, 4))),
        )
        one = Puzzle(rng.randint(2, 9), 0, tuple(rng.sample(moves, 3)))
        number = one.start
        for _ in range(MOVES):
            nexts = [one.after(number, move) for move in one.moves]
            number = rng.choice([new for new in nexts if new is not None])
        return one._replace(target=number)

    def hard(one: Puzzle) -> bool:
        first = [one.after(one.start, move) for move in one.moves]
        return not all(new is not None and one.reaches(new, MOVES - 1) for new in first)

    while not hard(one := _drawn(facts, held_out, draw, lambda one: ("puzzle", one.question))):
        pass
    return one


def listed(facts: Facts, rng: random.Random, held_out: bool) -> Listed:
    """Three words, and an instruction that examples show: three, and four more to try it on."""
    instruction = rng.choice(list(INSTRUCTIONS))

    def some(held_out: bool) -> tuple[str, ...]:
        return _drawn(
            facts, held_out, lambda: tuple(rng.sample(WORDS, 3)), lambda words: ("words", *words)
        )

    pairs = [
        (" ".join(words), done(instruction, words)) for words in (some(False) for _ in "1234567")
    ]
    return Listed(some(held_out), instruction, tuple(pairs[:3]), tuple(pairs[3:]))


def two_steps(facts: Facts, rng: random.Random, held_out: bool) -> TwoSteps:
    """Three people in a ring of friends, and one thing that is told of each."""

    def draw() -> TwoSteps:
        people, name = rng.sample(_strangers(facts), PEOPLE), rng.choice(ASKED_OF_FRIENDS)
        values = rng.sample(facts.values[RELATIONS[name].value], PEOPLE)
        told = dict(zip(people, values, strict=True))
        friends = dict(zip(people, people[1:] + people[:1], strict=True))
        notes = [state(person, "friend", friends[person]) for person in people]
        notes += [state(person, name, told[person]) for person in people]
        person = rng.choice(people)
        friend = friends[person]
        fact = friend, name, told[friend]
        return TwoSteps(tuple(rng.sample(notes, len(notes))), person, friend, fact)

    return _drawn(facts, held_out, draw, lambda one: ("two steps", *sorted(one.notes)))


def prices(facts: Facts, rng: random.Random, held_out: bool) -> Prices:
    """Four things with their prices."""

    def draw() -> Prices:
        things = rng.sample(THINGS, PRICED)
        known = tuple((thing, rng.randint(*LARGE)) for thing in things)
        return Prices(known, tuple(rng.sample(things, 2)))

    return _drawn(facts, held_out, draw, lambda one: ("terms", *map(str, sorted(one.terms))))


def line(facts: Facts, rng: random.Random, held_out: bool) -> Line:
    """A function with small numbers."""

    def draw() -> Line:
        return Line(rng.randint(2, 12), rng.randint(1, 29))

    return _drawn(facts, held_out, draw, lambda one: ("line", *map(str, one)))


def documents(facts: Facts, rng: random.Random, held_out: bool) -> Documents:
    """All that can be said of three people, a document a fact."""

    def draw() -> Documents:
        names = _strangers(facts)
        told = []
        for person, name in itertools.product(rng.sample(names, PEOPLE), TELLING):
            kind = RELATIONS[name].value
            told.append(
                (person, name, rng.choice(names if kind == "person" else facts.values[kind]))
            )
        notes, fact = [state(*one) for one in rng.sample(told, len(told))], rng.choice(told)
        question = rng.choice(RELATIONS[fact[1]].questions).format(s=fact[0])
        return Documents(tuple(notes), question, fact)

    return _drawn(facts, held_out, draw, lambda one: ("documents", *sorted(one.notes)))


def order(facts: Facts, rng: random.Random, held_out: bool) -> Order:
    """A sentence about somebody, a question about it, a word, and a secret."""

    def draw() -> Order:
        name = rng.choice(ASKED_OF_FRIENDS)
        fact = rng.choice(_strangers(facts)), name, rng.choice(facts.values[RELATIONS[name].value])
        word, secret = rng.sample([one for one in WORDS if one != fact[2]], 2)
        return Order(fact, RELATIONS[name].questions[0].format(s=fact[0]), word, secret)

    return _drawn(facts, held_out, draw, lambda one: ("order", *one.fact, one.word))


def _strangers(facts: Facts) -> list[str]:
    """Names that no other text knows."""
    known = {*facts.entities["person"], *facts.readers}
    return [name for name in person_names() if name not in known]


def _drawn(
    facts: Facts, held_out: bool, draw: Callable[[], Some], named: Callable[[Some], tuple[str, ...]]
) -> Some:
    """A draw from one side of the split."""
    while True:
        one = draw()
        if facts.is_held_out(*named(one)) == held_out:
            return one
