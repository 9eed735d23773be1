"""Every question that can be asked in a world, and how a prompt is recognised."""

import re
from dataclasses import dataclass, replace

from gpt_jax.data.microworld.facts import LARGEST_OPERAND, Facts
from gpt_jax.data.microworld.language import (
    BRIDGES,
    RELATIONS,
    SMALL_TALK,
    SUM_QUESTIONS,
)

KINDS = {"fact": 0.75, "arithmetic": 0.06, "two_hop": 0.09, "note": 0.05, "small_talk": 0.05}


@dataclass(frozen=True)
class Question:
    """A prompt with all that is needed to answer it and to judge an answer."""

    kind: str  # a key of KINDS
    prompt: str
    answer: str
    # The facts that lead to the answer: (subject, relation, value). The last value is the answer.
    hops: tuple[tuple[str, str, str], ...] = ()
    terms: tuple[int, ...] = ()  # arithmetic: the numbers in the order they are combined
    operator: str = ""  # arithmetic: + or -
    held_out: bool = False

    @property
    def about(self) -> tuple:
        """What is asked, whatever the words: the fact that is the answer, the sum, or the talk."""
        return self.hops[-1] if self.hops else (self.kind, self.operator, *self.terms, self.answer)

    @property
    def steps(self) -> list[tuple[int, str, int, int]]:
        """Arithmetic, worked: (left, operator, right, result) one after another."""
        steps, total = [], self.terms[0]
        for term in self.terms[1:]:
            result = total + term if self.operator == "+" else total - term
            steps.append((total, self.operator, term, result))
            total = result
        return steps


def fact_questions(facts: Facts) -> list[Question]:
    """All one-hop questions in all phrasings, about the texts' world and the library's."""
    found = []
    for (entity, name), value in (*facts.true.items(), *facts.library.items()):
        held_out = (entity, name) in facts.held_out or (entity, name) in facts.library
        for text in RELATIONS[name].questions:
            found.append(
                Question(
                    "fact",
                    text.format(s=entity),
                    value,
                    ((entity, name, value),),
                    held_out=held_out,
                )
            )
    return found


def two_hop_questions(facts: Facts) -> list[Question]:
    """All questions about the friend of a person or the owner of a thing.

    Held out if either hop is: training never works through a held-out fact.
    """
    found = []
    for (entity, bridge), person in facts.true.items():
        if bridge not in BRIDGES:
            continue
        for name in facts.pairs_of[person]:
            value = facts.true[person, name]
            held_out = bool({(entity, bridge), (person, name)} & facts.held_out)
            subject = BRIDGES[bridge].format(s=entity)
            for text in RELATIONS[name].questions:
                found.append(
                    Question(
                        "two_hop",
                        text.format(s=subject),
                        value,
                        ((entity, bridge, person), (person, name, value)),
                        held_out=held_out,
                    )
                )
    return found


def small_talk_questions() -> list[Question]:
    return [
        Question("small_talk", text, key)
        for key, (texts, _) in SMALL_TALK.items()
        for text in texts
    ]


def sum_question(facts: Facts, text: str, terms: tuple[int, ...], operator: str) -> Question:
    """A sum of two or three terms, or a difference of two."""
    prompt = text.format(**dict(zip("abc", terms, strict=False)))
    total = terms[0] - terms[1] if operator == "-" else sum(terms)
    question = Question("arithmetic", prompt, str(total), (), terms, operator)
    held_out = any(facts.is_held_out_sum(a, op, b) for a, op, b, _ in question.steps)
    # Of three terms the text also shows the last two side by side.
    held_out = held_out or facts.is_held_out_sum(terms[-2], operator, terms[-1])
    return Question("arithmetic", prompt, str(total), (), terms, operator, held_out)


def draw_sum(facts: Facts, rng) -> Question:
    """A random sum; one in four has three terms. Results lie in 0..40 (three terms: 0..20)."""
    if rng.random() < 0.25:
        a, b, c = (rng.randrange(LARGEST_OPERAND // 2) for _ in range(3))
        terms, operator = (a, b, min(c, LARGEST_OPERAND - a - b)), "+"
        return sum_question(facts, rng.choice(SUM_QUESTIONS["++"]), terms, operator)
    a, b = rng.randint(0, LARGEST_OPERAND), rng.randint(0, LARGEST_OPERAND)
    operator = rng.choice("+-")
    if operator == "-":
        a, b = max(a, b), min(a, b)
    return sum_question(facts, rng.choice(SUM_QUESTIONS[operator]), (a, b), operator)


def draw_note(facts: Facts, rng) -> Question:
    """A made-up fact in a note, at times beside another one, and a question about it."""
    notes = []
    for _ in range(rng.choice((1, 1, 2))):
        if rng.random() < 0.5:
            entity, name = rng.choice(facts.entities["object"]), "spot"
        else:
            entity, name = rng.choice(facts.strangers), rng.choice(("home", "job", "pet", "taste"))
        if not any(entity == other for other, _, _ in notes):
            notes.append((entity, name, rng.choice(facts.values[RELATIONS[name].value])))
    text = " ".join(state(*note) for note in notes)
    entity, name, value = rng.choice(notes)
    asked = rng.choice(RELATIONS[name].questions).format(s=entity)
    held_out = any(facts.is_held_out_note(*note) for note in notes)
    return Question(
        "note", f"Note: {text} {asked}", value, ((entity, name, value),), held_out=held_out
    )


def state(entity: str, name: str, value: str, rng=None) -> str:
    """A fact as a sentence, in the plain phrasing or (with a generator) in any."""
    texts = RELATIONS[name].statements
    text = (rng.choice(texts) if rng else texts[0]).format(s=entity, v=value)
    return text[0].upper() + text[1:]


class Recogniser:
    """Finds the question that a prompt asks; None if it asks none."""

    def __init__(self, facts: Facts):
        self.facts = facts
        listed = fact_questions(facts) + two_hop_questions(facts) + small_talk_questions()
        self.listed = {question.prompt: question for question in listed}
        self.sums = [
            (_pattern(text), text, operator[0])
            for operator, texts in SUM_QUESTIONS.items()
            for text in texts
        ]
        self.stated = [
            (_pattern(text), name)
            for name, relation in RELATIONS.items()
            for text in relation.statements
        ]
        self.asked = [
            (_pattern(text), name)
            for name, relation in RELATIONS.items()
            for text in relation.questions
        ]
        self.subjects = {
            **facts.entities,
            "person": facts.entities["person"] + facts.strangers + facts.readers,
        }

    def __call__(self, prompt: str) -> Question | None:
        if prompt in self.listed:
            return self.listed[prompt]
        if prompt.startswith("Note: "):
            return self._read_note(prompt)
        for pattern, text, operator in self.sums:
            if match := pattern.fullmatch(prompt):
                terms = tuple(int(number) for _, number in sorted(match.groupdict().items()))
                return sum_question(self.facts, text, terms, operator)
        return None

    def _read_note(self, prompt: str) -> Question | None:
        """What the note says goes before what is true; a note that says nothing is ignored."""
        *sentences, question = re.split(r"(?<=\.) ", prompt.removeprefix("Note: "))
        notes = [note for text in sentences for note in self._find(self.stated, text)]
        if not sentences or len(notes) != len(sentences):
            return None
        for entity, name, _ in self._find(self.asked, question):
            values = [v for e, n, v in notes if (e, n) == (entity, name)]
            if len(values) == 1:
                held_out = any(self.facts.is_held_out_note(*note) for note in notes)
                return Question(
                    "note", prompt, values[0], ((entity, name, values[0]),), held_out=held_out
                )
        if question in self.listed and self.listed[question].hops:
            return replace(self.listed[question], prompt=prompt)
        return None

    def _find(self, patterns, text: str) -> list[tuple[str, str, str]]:
        """(subject, relation, value) of a statement; the value is empty for a question."""
        for pattern, name in patterns:
            if match := pattern.fullmatch(text):
                relation, words = RELATIONS[name], match.groupdict()
                value, values = words.get("v", ""), self.facts.values[relation.value]
                # A value that opens the sentence has a capital that is not its own.
                value = value.lower() if value.lower() in values else value
                if words["s"] in self.subjects[relation.subject] and value in ("", *values):
                    return [(words["s"], name, value)]
        return []


def _pattern(template: str) -> re.Pattern:
    """A pattern that reads `{s}` and `{v}` as words and `{a}`, `{b}`, `{c}` as numbers."""
    parts = re.split(r"\{([abcsv])\}", template)
    for i in range(1, len(parts), 2):
        parts[i] = f"(?P<{parts[i]}>{'[A-Za-z]+' if parts[i] in 'sv' else '[0-9]+'})"
    return re.compile("".join(p if i % 2 else re.escape(p) for i, p in enumerate(parts)))
