"""Every question that can be asked in a world, and how a prompt is recognised.

Most questions are asked of what the prompt itself says, so that an answer can be checked against
it: a note, a story, a table, a list, some numbers, a sum. Some ask for what the note does not say,
and some for what only the pretraining texts tell.
"""

from gpt_jax.data.microworld import exercises, notes
from gpt_jax.data.microworld.facts import Facts
from gpt_jax.data.microworld.language import RELATIONS, SMALL_TALK
from gpt_jax.data.microworld.question import Question

KINDS = {
    "note": 0.23,
    "story": 0.10,
    "table": 0.14,
    "two_hop": 0.06,
    "unsaid": 0.10,
    "list": 0.08,
    "numbers": 0.05,
    "arithmetic": 0.08,
    "fact": 0.10,
    "small_talk": 0.06,
}


def fact_questions(facts: Facts) -> list[Question]:
    """All questions of one fact in all phrasings, about the texts' world and the library's."""
    found = []
    for (entity, name), value in (*facts.true.items(), *facts.library.items()):
        held_out = (entity, name) in facts.held_out or (entity, name) in facts.library
        hops = ((entity, name, value),)
        for text in RELATIONS[name].questions:
            found.append(
                Question("fact", text.format(s=entity), value, hops=hops, held_out=held_out)
            )
    return found


def small_talk_questions() -> list[Question]:
    """Everything that is said without wanting to know anything."""
    return [
        Question("small_talk", text, key)
        for key, (texts, _) in SMALL_TALK.items()
        for text in texts
    ]


def draw(facts: Facts, kind: str, rng) -> Question:
    """A random question of a kind that is made up anew each time."""
    if kind in ("list", "numbers", "arithmetic"):
        return exercises.draw(facts, kind, rng)
    return notes.draw(facts, kind, rng)


class Recogniser:
    """Finds the question that a prompt asks; None if it asks none."""

    def __init__(self, facts: Facts):
        self.facts = facts
        listed = fact_questions(facts) + small_talk_questions()
        self.listed = {question.prompt: question for question in listed}
        self.notes = notes.Reader(facts, self.listed)

    def __call__(self, prompt: str) -> Question | None:
        if prompt in self.listed:
            return self.listed[prompt]
        return self.notes(prompt) or exercises.read(self.facts, prompt)
