"""Mistakes as people make them: a question, with a wrong answer of the right type."""

from dataclasses import replace

from gpt_jax.data.microworld.language import RELATIONS, SMALL_TALK
from gpt_jax.data.microworld.question import Question
from gpt_jax.data.microworld.world import World


def mistaken(world: World, question: Question, rng) -> Question:
    """The question with a wrong answer of the right type: misread, miscounted, or guessed.

    A mistake of training never says what only test splits may show.
    """
    if question.kind == "small_talk":
        wrong = rng.choice([key for key in SMALL_TALK if key != question.answer])
        return replace(question, answer=wrong)
    if question.kind == "arithmetic":
        return _miscounted(world, question, rng)
    if question.items:
        return replace(question, answer=rng.choice(_other_answers(question)))
    return _misread(world, question, rng)


def _miscounted(world: World, question: Question, rng) -> Question:
    """One step more or less; or counted well, and then a wrong result."""
    (a, b), operator = question.terms, question.operator
    counts = [
        count
        for count in (b - 1, b + 1)
        if count > 0
        and (operator == "+" or count <= a)
        and (question.held_out or not world.facts.is_held_out_sum(a, operator, count))
    ]
    sign = 1 if operator == "+" else -1
    if not counts:
        return replace(question, answer=str(int(question.answer) + rng.choice((1, 2))))
    count = rng.choice(counts)
    return replace(question, terms=(a, count), answer=str(a + sign * count))


def _misread(world: World, question: Question, rng) -> Question:
    """Another value for the subject: mostly one that the prompt says of somebody else."""
    *way, (subject, name, right) = question.hops
    told = [(s, v) for s, other, v in question.said if other == name and v != right]
    if way and told:  # answered of the wrong person
        hops = ((*way[0][:2], told[0][0]), (told[0][0], name, told[0][1]))
        return replace(question, answer=told[0][1], hops=hops)
    kind = RELATIONS[name].value
    # People of the texts only: nobody from the library may be named in a training text.
    values = [
        value
        for value in world.facts.entities.get(kind) or world.facts.values[kind]
        if value not in (right, subject)
    ]
    in_prompt = [value for _, value in told if value in values]
    wrong = rng.choice(in_prompt if in_prompt and rng.random() < 0.8 else values)
    return replace(question, answer=wrong, hops=(*way, (subject, name, wrong)))


def _other_answers(question: Question) -> list[str]:
    items, right = question.items, question.answer
    if question.wanted == "count":
        return [str(n) for n in (len(items) - 1, len(items) + 1)]
    if question.wanted == "sort":
        numbers = right.split(", ")
        swapped = [
            numbers[:i] + [numbers[i + 1], numbers[i]] + numbers[i + 2 :]
            for i in range(len(numbers) - 1)
        ]
        return [
            ", ".join(one)
            for one in [*swapped, list(items), numbers[::-1]]
            if ", ".join(one) != right
        ]
    return [item for item in items if item not in (right, question.after)] or [
        item for item in items if item != right
    ]
