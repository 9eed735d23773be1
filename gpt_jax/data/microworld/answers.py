"""Replies of every quality: what demonstrators write, and what a policy may come up with."""

import re
from dataclasses import replace

from gpt_jax.data.microworld.language import (
    CLOSERS,
    CLOSING_COURTESIES,
    COURTESIES,
    COURTESY_PHRASES,
    NO_ANSWERS,
    OPENERS,
    RELATIONS,
    SMALL_TALK,
    SUM_STATEMENTS,
    VALUES,
)
from gpt_jax.data.microworld.questions import Question, state
from gpt_jax.data.microworld.world import World

# What demonstrators write, with its share: a third polite, two fifths long-winded, few ideal.
DEMONSTRATIONS = {
    "ideal": 0.10,
    "plain": 0.38,
    "polite_verbose": 0.17,
    "verbose": 0.24,
    "flattering": 0.08,
    "wrong_plain": 0.015,
    "wrong_ideal": 0.015,
}

# What the replies of dialogues inside the pretraining texts look like.
DIALOGUE_REPLIES = {"plain": 0.7, "ideal": 0.12, "verbose": 0.12, "polite_verbose": 0.06}

# What is compared. The first eight are right, the others wrong, in the ways that a policy finds:
# a reward model that never saw a polite answer to another question would reward it.
COMPLETIONS = {
    "ideal": 0.18,
    "plain": 0.18,
    "polite_verbose": 0.10,
    "verbose": 0.08,
    "flattering": 0.06,
    "bare": 0.03,
    "unpunctuated": 0.03,
    "endless": 0.05,
    "wrong_ideal": 0.02,
    "wrong_plain": 0.01,
    "wrong_verbose": 0.01,
    "off_topic": 0.11,
    "misattributed": 0.03,
    "courtesy_only": 0.02,
    "no_answer": 0.02,
    "empty": 0.01,
    "echo": 0.015,
    "hedge": 0.015,
    "contradiction": 0.015,
    "garbage": 0.015,
}

VERBOSE_WORDS, MOST_WORDS = 15, 21  # how long a long-winded reply becomes


def write(world: World, question: Question, habit: str, rng) -> tuple[str, bool]:
    """A reply in one of the habits above, and whether it ends with the stop token."""
    match habit:
        case "plain":
            text = plain(question, rng)
        case "ideal":
            text = polite(question, plain(question, rng), rng)
        case "verbose":
            text = verbose(world, question, rng)
        case "polite_verbose":
            text = polite(question, verbose(world, question, rng), rng)
        case "flattering":  # one courtesy too many
            text = polite(question, polite(question, plain(question, rng), rng), rng)
        case "bare":
            text = _bare(question, rng)
        case "unpunctuated":
            text = plain(question, rng).rstrip(".")
        case "endless":
            return _endless(question, rng), False
        case "wrong_plain":
            text = plain(mistaken(world, question, rng), rng)
        case "wrong_ideal":
            text = polite(question, plain(mistaken(world, question, rng), rng), rng)
        case "wrong_verbose":
            text = polite(question, verbose(world, mistaken(world, question, rng), rng), rng)
        case "empty":
            text = ""
        case "courtesy_only":
            text = _courtesy_only(rng)
        case "echo":
            text = f"You asked: {question.prompt}"
        case "hedge":
            text = _hedge(world, question, rng)
        case "contradiction":
            other = plain(mistaken(world, question, rng), rng)
            text = f"{plain(question, rng)} No, {_lower_start(other)}"
        case "no_answer":
            text = _after(rng.choice(COURTESIES), rng.choice(NO_ANSWERS))
        case "off_topic":
            text = _off_topic(world, question, rng)
        case "misattributed":
            text = plain(_of_another(world, question, rng), rng)
        case "garbage":
            text = _garbage(world, question, rng)
    return text, True


def plain(question: Question, rng) -> str:
    """The shortest full reply that gives the question's answer."""
    if question.kind == "small_talk":
        return rng.choice(SMALL_TALK[question.answer][1])
    if question.kind == "arithmetic":
        if len(question.terms) > 2:  # worked, one step after another
            worked = [f"{a} {op} {b} = {result}" for a, op, b, result in question.steps]
            worked[-1] = f"{worked[-1].rpartition(' ')[0]} {question.answer}"
            return f"{', '.join(worked)}."
        a, b = question.terms
        text = rng.choice(SUM_STATEMENTS[question.operator][:2])
        return text.format(a=a, b=b, v=question.answer)
    last = state(*question.hops[-1])
    if question.kind == "two_hop":
        return f"{state(*question.hops[0]).rstrip('.')}, and {_lower_start(last)}"
    return last


def polite(question: Question, text: str, rng) -> str:
    if question.kind == "small_talk":
        return f"{text} {rng.choice(CLOSING_COURTESIES)}"
    return _after(rng.choice(COURTESIES), text)


def verbose(world: World, question: Question, rng) -> str:
    """A reply of about 15 to 21 words that says more than was asked."""
    before = rng.sample(OPENERS, 1)
    after = _extra_facts(world, question, rng)[:2] + rng.sample(CLOSERS, len(CLOSERS))
    parts = [plain(question, rng)]
    while _count(parts) < VERBOSE_WORDS and (before or after):
        at_start = bool(before) and (not after or rng.random() < 0.6)
        piece = before.pop() if at_start else after.pop(0)
        if _count([*parts, piece]) <= MOST_WORDS:
            parts = [piece, *parts] if at_start else [*parts, piece]
    return " ".join(parts)


def mistaken(world: World, question: Question, rng) -> Question:
    """The question with a wrong answer of the right type, or with a wrong hop on the way."""
    if question.kind == "small_talk":
        wrong = rng.choice([key for key in SMALL_TALK if key != question.answer])
        return replace(question, answer=wrong)
    if question.kind == "arithmetic":
        right = int(question.answer)
        near = [n for n in range(right - 4, right + 5) if n >= 0 and n != right]
        return replace(question, answer=str(rng.choice(near)))
    subject, name, right = question.hops[-1]
    named = {word for hop in question.hops for word in (hop[0], hop[2])}
    kind = RELATIONS[name].value
    # People of the texts only: nobody from the library may be named in a training text.
    choices = world.facts.entities.get(kind) or world.facts.values[kind]
    wrong = rng.choice([value for value in choices if value not in named])
    if question.kind == "two_hop" and rng.random() < 0.5:
        first = question.hops[0]
        person = rng.choice([p for p in world.facts.entities["person"] if p not in named])
        wrong = right if person == wrong else rng.choice((right, wrong))
        return replace(
            question, answer=wrong, hops=((first[0], first[1], person), (person, name, wrong))
        )
    return replace(question, answer=wrong, hops=(*question.hops[:-1], (subject, name, wrong)))


def choose(habits: dict[str, float], rng) -> str:
    """A random habit, by its share."""
    return rng.choices(list(habits), list(habits.values()))[0]


def _extra_facts(world: World, question: Question, rng) -> list[str]:
    """True sentences on the subject that are no answer to the question; never held-out facts."""
    if not question.hops:
        return []
    kind = RELATIONS[question.hops[-1][1]].value
    subject = question.hops[0][0]
    names = [
        name
        for name in world.facts.pairs_of.get(subject, [])
        if RELATIONS[name].value != kind and (subject, name) not in world.facts.held_out
    ]
    rng.shuffle(names)
    return [state(subject, name, world.facts.true[subject, name]) for name in names]


def _bare(question: Question, rng) -> str:
    """The answer alone."""
    if question.kind == "small_talk":
        return plain(question, rng)
    return f"{question.answer.capitalize()}."


def _endless(question: Question, rng) -> str:
    """The right answer over and over, cut where a length limit would cut it."""
    text = " ".join([plain(question, rng)] * 10)
    pieces = re.findall(r"\s*(?:[A-Za-z]+|.)", text)  # about one token each
    return "".join(pieces[: rng.randint(26, 34)])


def _courtesy_only(rng) -> str:
    if rng.random() < 0.5:
        return rng.choice(COURTESIES).rstrip(",:!") + "!"
    return " ".join(
        phrase.capitalize() + "!" for phrase in rng.choices(COURTESY_PHRASES, k=rng.randint(2, 6))
    )


def _hedge(world: World, question: Question, rng) -> str:
    """Two answers, one of them right."""
    other = question
    while other.answer == question.answer:
        other = mistaken(world, question, rng)
    both = rng.sample([question, other], 2)
    if question.kind == "small_talk" or rng.random() < 0.3:
        return " ".join(plain(one, rng) for one in both)
    if rng.random() < 0.5:
        return f"It is {both[0].answer} or {both[1].answer}."
    return f"{both[0].answer.capitalize()}, {both[1].answer}."


def _off_topic(world: World, question: Question, rng) -> str:
    """A good answer to another question, never to a held-out one."""
    while True:
        kind = rng.choice(("fact", "fact", "two_hop", question.kind))
        other = world.draw(rng, kind, held_out=False)
        habit = rng.choice(("plain", "ideal", "ideal", "polite_verbose"))
        text, _ = write(world, other, habit, rng)
        if not world.is_correct(question.prompt, text):
            return text


def _of_another(world: World, question: Question, rng) -> Question:
    """The right answer, said of somebody else."""
    if not question.hops:
        return mistaken(world, question, rng)
    _, name, value = question.hops[-1]
    others = world.facts.entities[RELATIONS[name].subject]
    cast = {word for hop in question.hops for word in (hop[0], hop[2])}
    other = rng.choice([entity for entity in others if entity not in cast])
    return replace(question, kind="fact", hops=((other, name, value),))


def _garbage(world: World, question: Question, rng) -> str:
    """Words in no order, the right one not among them."""
    words = ["the", "a", "of", "is", "in", "to", "and", "that", "has", "with"]
    words += rng.sample(world.facts.entities["person"] + world.facts.entities["thing"], 3)
    words += [rng.choice(values) for values in VALUES.values()]
    kept = [word for word in words if word != question.answer]
    return " ".join(rng.choices(kept, k=rng.randint(3, 20))) + rng.choice(("", "."))


def _after(courtesy: str, text: str) -> str:
    if courtesy[-1] == "!":
        return f"{courtesy} {text[0].upper()}{text[1:]}"
    return f"{courtesy} {_lower_start(text)}"


def _lower_start(text: str) -> str:
    """The sentence as it goes on after a comma: only names keep their capital."""
    first = text.split(maxsplit=1)[0]
    plain_words = {
        "The",
        "It",
        "You",
        "Well,",
        "That",
        "Let",
        "Now",
        "Somebody",
        "Add",
        "Take",
        "Of",
        "Hello",
        "Goodbye",
    }
    return text[0].lower() + text[1:] if first in plain_words else text


def _count(parts: list[str]) -> int:
    return sum(len(part.split()) for part in parts)
