"""Notes, stories and tables: made-up facts in the prompt, and questions that they answer or not."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from gpt_jax.data.microworld.facts import Facts
from gpt_jax.data.microworld.language import BRIDGES, RELATIONS
from gpt_jax.data.microworld.question import Fact, Question, pattern

TITLES = {"note": "Note: ", "two_hop": "Note: ", "story": "Story: ", "table": "Table: "}
PERSONAL = ("home", "job", "pet", "taste")  # what notes and tables say of people
TOLD = ("spot", *PERSONAL)  # what notes say of people and things
_WORD = "[A-Za-z]+"


def draw(facts: Facts, kind: str, rng) -> Question:
    """A random note, story or table with a question that it answers; `unsaid`: does not answer."""
    layout = rng.choice(("note", "note", "story", "table")) if kind == "unsaid" else kind
    said = {"note": _note, "story": _story, "table": _table, "two_hop": _two_hop}[layout](
        facts, rng
    )
    shown = TITLES[layout] + (_as_table(said) if layout == "table" else _as_text(said, layout, rng))
    if kind == "two_hop":
        (entity, bridge, _), second = said[0], said[1]
        hops, name = (said[0], second), second[1]
        subject = BRIDGES[bridge].format(s=entity)
    elif kind == "unsaid":
        subject, name = missing(facts, said, rng)
        hops = ((subject, name, ""),)
    else:
        hops = (rng.choice(said),)
        subject, name, _ = hops[0]
    said = tuple(_in_order_shown(shown, said))
    asked = rng.choice(RELATIONS[name].questions).format(s=subject)
    return _question(facts, kind, f"{shown} {asked}", hops, said)


def state(entity: str, name: str, value: str, rng=None) -> str:
    """A fact as a sentence, in the plain phrasing or (with a generator) in any."""
    texts = RELATIONS[name].statements
    text = (rng.choice(texts) if rng else texts[0]).format(s=entity, v=value)
    return text[0].upper() + text[1:]


def missing(facts: Facts, said: Sequence[Fact], rng) -> tuple[str, str]:
    """(subject, relation) that nothing is said about.

    Mostly the friend of somebody who is named, or the owner of a thing, which notes say only where
    they lead to something else; or what is told of others. The second is seen by comparing names,
    which is harder.
    """
    subject, name, _ = rng.choice(said)
    people = RELATIONS[name].subject == "person"
    bridge = "friend" if people else "owner"
    if rng.random() < 0.8 and all((subject, bridge) != fact[:2] for fact in said):
        return subject, bridge
    subjects = facts.strangers if people else facts.entities["object"]
    return rng.choice([s for s in subjects if all(s != other for other, *_ in said)]), name


class Reader:
    """Reads what notes, stories and tables say, and what is asked of them.

    Args:
      facts: of the world.
      listed: the questions that memory answers, by their prompts: what a note says goes before,
        and a note that says nothing of it is ignored.
    """

    def __init__(self, facts: Facts, listed: dict[str, Question]):
        self.facts, self.listed = facts, listed
        slots = {"s": f"the [a-z]+ of {_WORD}|the [a-z]+ of the {_WORD}|{_WORD}", "v": _WORD}
        self.stated = [
            (pattern(text, slots | {"s": _WORD}), name)
            for name, relation in RELATIONS.items()
            for text in relation.statements
        ]
        self.asked = [
            (pattern(text, slots), name)
            for name, relation in RELATIONS.items()
            for text in relation.questions
        ]
        people = facts.entities["person"] + facts.strangers + facts.readers
        objects = facts.entities["object"]
        self.subjects = {
            **facts.entities,
            "person": people,
            "thing": facts.entities["thing"] + objects,
        }

    def __call__(self, prompt: str) -> Question | None:
        """The question that a prompt asks of its note; None if it has none, or asks nothing."""
        kind = next((kind for kind, title in TITLES.items() if prompt.startswith(title)), None)
        if kind is None:
            return None
        *sentences, asked = re.split(r"(?<=\.) ", prompt.removeprefix(TITLES[kind]))
        said = self._table(sentences) if kind == "table" else self._text(sentences)
        if not said or len(set(said)) != len(said):
            return None
        readings = list(self._find(self.asked, asked))
        for subject, name, _ in readings:
            if hops := self._answering(subject, name, said):
                kind = "two_hop" if len(hops) > 1 else kind
                return _question(self.facts, kind, prompt, hops, said)
        if asked in self.listed and self.listed[asked].hops:
            return replace(self.listed[asked], prompt=prompt, said=said)
        for subject, name, _ in readings:
            if subject in self.subjects[RELATIONS[name].subject]:
                return _question(self.facts, "unsaid", prompt, ((subject, name, ""),), said)
        return None

    def facts_in(self, sentence: str) -> list[Fact]:
        """(subject, relation, value) of a statement in any phrasing."""
        return [
            (subject, name, value)
            for subject, name, value in self._find(self.stated, sentence)
            if subject in self.subjects[RELATIONS[name].subject]
        ]

    def _text(self, sentences: list[str]) -> tuple[Fact, ...]:
        found = [self.facts_in(text) for text in sentences]
        return tuple(facts[0] for facts in found) if all(found) else ()

    def _table(self, sentences: list[str]) -> tuple[Fact, ...]:
        if len(sentences) != 1:
            return ()
        said = []
        for row in sentences[0].rstrip(".").split("; "):
            person, *cells = row.split(", ")
            for cell in cells:
                names = [n for n in PERSONAL if cell in self.facts.values[RELATIONS[n].value]]
                if not names or person not in self.subjects["person"]:
                    return ()
                said.append((person, names[0], cell))
        return tuple(said)

    def _answering(self, subject: str, name: str, said: Iterable[Fact]) -> tuple[Fact, ...]:
        """The facts that lead to the answer; none, if they are not said or say two things."""
        direct = [fact for fact in said if fact[:2] == (subject, name)]
        if len(direct) == 1:
            return tuple(direct)
        for bridge in said:
            if bridge[1] in BRIDGES and BRIDGES[bridge[1]].format(s=bridge[0]) == subject:
                last = [fact for fact in said if fact[:2] == (bridge[2], name)]
                if len(last) == 1:
                    return (bridge, last[0])
        return ()

    def _find(self, patterns, text: str) -> Iterable[Fact]:
        """Readings of a statement or a question, whose value is empty."""
        for expression, name in patterns:
            if match := expression.fullmatch(text):
                words, values = match.groupdict(), self.facts.values[RELATIONS[name].value]
                value = words.get("v", "")
                # A value that opens the sentence has a capital that is not its own.
                value = value.lower() if value.lower() in values else value
                if value in ("", *values):
                    yield words["s"], name, value


def _question(facts: Facts, kind: str, prompt: str, hops, said) -> Question:
    # Whole notes are held out, not facts: else the right value of a test would be one that no
    # training text ever gave to its subject, and a model would learn to avoid it.
    held_out = facts.is_held_out(*sorted(" ".join(fact) for fact in said))
    return Question(kind, prompt, hops[-1][2], hops=hops, said=said, held_out=held_out)


def _note(facts: Facts, rng) -> list[Fact]:
    """Two or three facts, of different relations or all of one."""
    count = rng.choice((2, 2, 3))
    alike = rng.random() < facts.size.alike
    chosen = [rng.choice(TOLD)] * count if alike else rng.sample(TOLD, count)
    said = []
    for name in chosen:
        subjects = facts.entities["object"] if name == "spot" else facts.strangers
        entity = rng.choice([s for s in subjects if all(s != other for other, *_ in said)])
        taken = [value for _, other, value in said if other == name]
        value = rng.choice([v for v in facts.values[RELATIONS[name].value] if v not in taken])
        said.append((entity, name, value))
    return said


def _people(facts: Facts, names: list[list[str]], rng) -> list[Fact]:
    """Some facts of some people, one list of relations for each; no two share a value."""
    people, said = rng.sample(facts.strangers, len(names)), []
    for person, relations in zip(people, names, strict=True):
        for name in relations:
            taken = [value for _, other, value in said if other == name]
            value = rng.choice([v for v in facts.values[RELATIONS[name].value] if v not in taken])
            said.append((person, name, value))
    return said


def _story(facts: Facts, rng) -> list[Fact]:
    """Two facts of one person and two of another."""
    names = rng.sample(PERSONAL, 4)
    alike = rng.random() < facts.size.alike
    return _people(facts, [names[:2], names[:2] if alike else names[2:]], rng)


def _table(facts: Facts, rng) -> list[Fact]:
    """A row of two or three cells; or two rows with the same columns."""
    names = rng.sample(PERSONAL, rng.choice((2, 3)))
    return _people(facts, [names] * (2 if rng.random() < facts.size.alike else 1), rng)


def _two_hop(facts: Facts, rng) -> list[Fact]:
    """The friend of a person or the owner of a thing; what is true of them; and of another."""
    name, another = rng.sample(PERSONAL, 2)
    another = name if rng.random() < facts.size.alike else another
    told = _people(facts, [[name], [another]], rng)
    named = [person for person, *_ in told]
    bridge = rng.choice(list(BRIDGES))
    subjects = facts.strangers if bridge == "friend" else facts.entities["object"]
    entity = rng.choice([s for s in subjects if s not in named])
    return [(entity, bridge, named[0]), *told]


def _as_text(said: list[Fact], layout: str, rng) -> str:
    said = list(said)
    if layout != "story":
        rng.shuffle(said)
    return " ".join(state(*fact, rng if layout == "story" else None) for fact in said)


def _as_table(said: list[Fact]) -> str:
    rows: dict[str, list[str]] = {}
    for person, _, value in said:
        rows.setdefault(person, [person]).append(value)
    return "; ".join(", ".join(row) for row in rows.values()) + "."


def _in_order_shown(shown: str, said: list[Fact]) -> list[Fact]:
    """The facts as a reader meets them."""
    return (
        said
        if shown.startswith((TITLES["story"], TITLES["table"]))
        else sorted(said, key=lambda fact: shown.index(state(*fact)))
    )
