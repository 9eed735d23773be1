"""Who and what is in the microworld, what is true of it, and which questions are held out."""

import hashlib
import random
from dataclasses import dataclass

from gpt_jax.data.microworld import language
from gpt_jax.errors import UserError

HELD_OUT = 0.25  # share of (entity, relation) pairs and of sums that only test splits ask about


@dataclass(frozen=True)
class WorldSize:
    """How many entities there are, and how alike what a prompt says of them is.

    Facts: 5 per person, 2 per place, 3 per thing.
    """

    people: int = 24
    places: int = 10
    things: int = 10
    strangers: int = 16  # people that occur only in notes, where anything may be said of them
    library: int = 24  # people that no training text mentions, for retrieval
    # Share of notes whose facts are of one relation, such as two people's towns: only the subject
    # tells their values apart, which is the last that a model learns.
    alike: float = 0.1


def generator(seed: int, purpose: str) -> random.Random:
    """A generator of its own for each purpose (Python seeds it with the text's SHA-512)."""
    return random.Random(f"microworld {seed} {purpose}")


class Facts:
    """Everything that is true in one world.

    Attributes:
      entities: subject type -> names. `person` holds only the people of the texts.
      values: value type -> every word that can be an answer of that type.
      true: (entity, relation) -> value, for the world of the texts.
      library: the same for the people of the library.
      strangers, readers: people of the notes, and of the library.
      held_out: the (entity, relation) pairs that only test splits ask about.
      pairs_of: entity -> its relations.
    """

    def __init__(self, seed: int = 0, size: WorldSize = WorldSize()):
        self.seed, self.size = seed, size
        if size.things > len(language.THINGS) or size.things < 1:
            raise UserError(
                f"A microworld has 1 to {len(language.THINGS)} things, not "
                f"{size.things}; choose a smaller WorldSize.things."
            )
        if size.people < 3 or size.places < 2:
            raise UserError(
                "A microworld needs at least 3 people and 2 places; choose a larger WorldSize."
            )
        rng = generator(seed, "names")
        names = person_names()
        rng.shuffle(names)
        wanted = size.people + size.strangers + size.library
        if wanted > len(names):
            raise UserError(
                f"A microworld has names for {len(names)} people, not {wanted}; "
                f"choose a smaller WorldSize.people."
            )
        towns = _place_names()
        rng.shuffle(towns)
        if size.places > len(towns):
            raise UserError(
                f"A microworld has names for {len(towns)} places, not {size.places}; "
                f"choose a smaller WorldSize.places."
            )
        people = names[: size.people]
        self.strangers = names[size.people : size.people + size.strangers]
        self.readers = names[size.people + size.strangers : wanted]
        self.entities = {
            "person": people,
            "place": towns[: size.places],
            "thing": language.THINGS[: size.things],
            "object": language.NOTE_OBJECTS,
        }
        self.values = {
            **language.VALUES,
            "person": people + self.strangers + self.readers,
            "place": self.entities["place"],
        }
        self.true = self._draw(generator(seed, "facts"), self.entities)
        self.library = self._draw(generator(seed, "library"), {"person": self.readers})
        self.held_out = self._hold_out(generator(seed, "held out"))
        self.pairs_of = {}
        for entity, relation in self.true:
            self.pairs_of.setdefault(entity, []).append(relation)

    def _draw(self, rng, entities) -> dict[tuple[str, str], str]:
        """A value for every (entity, relation); values of one relation are used evenly."""
        true = {}
        for name, relation in language.RELATIONS.items():
            subjects = entities.get(relation.subject, [])
            if name == "friend":
                # One ring through all people: nobody is the friend of their own friend.
                ring = rng.sample(subjects, len(subjects))
                true.update({(s, name): ring[i - 1] for i, s in enumerate(ring)})
            elif relation.subject != "object":
                choices = entities.get(relation.value) or self.values[relation.value]
                deck = []
                while len(deck) < len(subjects):
                    deck += rng.sample(choices, len(choices))
                true.update({(s, name): deck[i] for i, s in enumerate(subjects)})
        return true

    def _hold_out(self, rng) -> frozenset[tuple[str, str]]:
        """A quarter of the pairs of every relation."""
        chosen = []
        for name in language.RELATIONS:
            pairs = [pair for pair in self.true if pair[1] == name]
            chosen += rng.sample(pairs, round(HELD_OUT * len(pairs)))
        return frozenset(chosen)

    def is_held_out_sum(self, a: int, operator: str, b: int) -> bool:
        """True if only test splits may show `a operator b`; `a + b` and `b + a` go together."""
        if operator == "+":
            a, b = sorted((a, b))
        return _fraction(f"{self.seed} {a} {operator} {b}") < HELD_OUT

    def is_held_out(self, *made_up: str) -> bool:
        """True if only test splits may show this made-up fact, or this list."""
        return _fraction(f"{self.seed} {' '.join(made_up)}") < HELD_OUT


def _fraction(key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def person_names() -> list[str]:
    """All names that a person of any world may have."""
    return [a + b + c + d for a in "BDFJKLMNPRTV" for b in "aeiou" for c in "dlmnrv" for d in "aio"]


def _place_names() -> list[str]:
    return [
        a + b + c + d
        for a in "BDLMNRTVW"
        for b in "aeio"
        for c in "lmnr"
        for d in ("by", "ton", "ford")
    ]
