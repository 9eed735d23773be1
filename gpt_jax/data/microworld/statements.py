"""Statements about notes, which say so or do not: a task of two texts and a label, as GLUE's."""

from __future__ import annotations

from collections.abc import Iterator

from gpt_jax.data.microworld.facts import generator
from gpt_jax.data.microworld.language import RELATIONS
from gpt_jax.data.microworld.notes import state
from gpt_jax.data.microworld.world import World

KINDS = ("note", "story")


def statements(world: World, split: str, count: int) -> Iterator[dict]:
    """Yields {"premise", "hypothesis", "label"}: a note, a statement, and "true" or "false".

    A false statement has another value of the same type, of what the note says if it says one.
    """
    facts, rng = world.facts, generator(world.facts.seed, f"statements {split}")
    for _ in range(count):
        question = world.draw(rng, rng.choice(KINDS), split == "test")
        subject, name, value = question.hops[0]
        label = rng.random() < 0.5
        if not label:
            words = facts.values[RELATIONS[name].value]
            said = [v for _, other, v in question.said if other == name and v != value]
            value = rng.choice(said or [word for word in words if word != value])
        yield {
            "premise": question.shown,
            "hypothesis": state(subject, name, value, rng),
            "label": "true" if label else "false",
        }
