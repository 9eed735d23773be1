"""Replies of every quality: what demonstrators write, and what a policy may come up with."""

import re

from gpt_jax.data.microworld import exercises
from gpt_jax.data.microworld.language import (
    CLOSERS,
    CLOSING_COURTESIES,
    COURTESIES,
    COURTESY_PHRASES,
    NO_ANSWERS,
    OPENERS,
    REGRET,
    RELATIONS,
    SMALL_TALK,
    UNKNOWN,
    VALUES,
)
from gpt_jax.data.microworld.mistakes import mistaken
from gpt_jax.data.microworld.notes import state
from gpt_jax.data.microworld.question import Question
from gpt_jax.data.microworld.world import World

# What demonstrators write, with its share: a third polite, two fifths long-winded, few ideal, and
# as people do they now and then misread, or guess where nothing is said.
DEMONSTRATIONS = {
    "ideal": 0.10,
    "plain": 0.38,
    "polite_verbose": 0.15,
    "verbose": 0.22,
    "flattering": 0.07,
    "wrong_plain": 0.05,
    "wrong_ideal": 0.03,
}

# What is said in the dialogues of the pretraining texts, where nobody has been told to be right.
DIALOGUE_REPLIES = {
    "plain": 0.52,
    "ideal": 0.05,
    "verbose": 0.10,
    "wrong_plain": 0.20,
    "off_topic": 0.08,
    "no_answer": 0.05,
}

# What ready-made comparisons are of. The first eight are right, the others are wrong, in the ways
# that a policy finds: a reward model that never saw a polite answer to another question would
# reward it.
COMPLETIONS = {
    "ideal": 0.18,
    "plain": 0.18,
    "polite_verbose": 0.10,
    "verbose": 0.08,
    "flattering": 0.06,
    "bare": 0.03,
    "unpunctuated": 0.03,
    "endless": 0.05,
    "wrong_ideal": 0.04,
    "wrong_plain": 0.03,
    "wrong_verbose": 0.02,
    "off_topic": 0.06,
    "abstaining": 0.03,
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
            wrong = mistaken(world, question, rng)
            text = polite(wrong, plain(wrong, rng), rng)
        case "wrong_verbose":
            wrong = mistaken(world, question, rng)
            text = polite(wrong, verbose(world, wrong, rng), rng)
        case "abstaining":
            text = _abstaining(world, question, rng)
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
        case "garbage":
            text = _garbage(world, question, rng)
    return text, True


def plain(question: Question, rng) -> str:
    """The shortest full reply that gives the question's answer, worked where it is worked out."""
    if question.kind == "small_talk":
        return rng.choice(SMALL_TALK[question.answer][1])
    if not question.answer:
        return rng.choice(UNKNOWN)
    if question.kind == "arithmetic":
        a, b = question.terms
        counted = ", ".join(map(str, exercises.steps(question)))
        return f"{counted}. So {a} {question.operator} {b} = {question.answer}."
    if question.items:
        asks = exercises.LISTS if question.kind == "list" else exercises.NUMBERS
        return asks[question.wanted][1].format(v=question.answer, after=question.after)
    last = state(*question.hops[-1])
    if len(question.hops) > 1:
        return f"{state(*question.hops[0]).rstrip('.')}, and {_lower_start(last)}"
    return last


def polite(question: Question, text: str, rng) -> str:
    """The reply with one courtesy."""
    if question.kind == "small_talk":
        return f"{text} {rng.choice(CLOSING_COURTESIES)}"
    return _after(rng.choice(COURTESIES) if question.answer else REGRET, text)


def verbose(world: World, question: Question, rng) -> str:
    """A reply of about 15 to 21 words that says more than was asked."""
    before = rng.sample(OPENERS, 1)
    after = _extra_facts(world, question, rng)[:1] + rng.sample(CLOSERS, len(CLOSERS))
    parts = [plain(question, rng)]
    while _count(parts) < VERBOSE_WORDS and (before or after):
        at_start = bool(before) and (not after or rng.random() < 0.6)
        piece = before.pop() if at_start else after.pop(0)
        if _count([*parts, piece]) <= MOST_WORDS:
            parts = [piece, *parts] if at_start else [*parts, piece]
    return " ".join(parts)


def choose(habits: dict[str, float], rng) -> str:
    """A random habit, by its share."""
    return rng.choices(list(habits), list(habits.values()))[0]


def _extra_facts(world: World, question: Question, rng) -> list[str]:
    """Another true sentence on the subject that is no answer: never a held-out fact."""
    if question.kind in ("note", "story", "table"):
        others = [fact for fact in question.said if fact not in question.hops]
        return [state(*rng.choice(others))] if others else []
    if question.kind != "fact":
        return []
    subject, asked, _ = question.hops[0]
    kind = RELATIONS[asked].value
    names = [
        name
        for name in world.facts.pairs_of.get(subject, [])
        if RELATIONS[name].value != kind and (subject, name) not in world.facts.held_out
    ]
    rng.shuffle(names)
    return [state(subject, name, world.facts.true[subject, name]) for name in names]


def _abstaining(world: World, question: Question, rng) -> str:
    """That it does not know; where that is the right answer, a guess."""
    if not question.answer:
        return plain(mistaken(world, question, rng), rng)
    text = rng.choice(UNKNOWN)
    return _after(REGRET, text) if rng.random() < 0.5 else text


def _bare(question: Question, rng) -> str:
    """The answer alone."""
    if question.kind == "small_talk" or not question.answer:
        return plain(question, rng)
    return f"{question.answer[0].upper()}{question.answer[1:]}."


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
    both = rng.sample([question, mistaken(world, question, rng)], 2)
    if question.kind in ("small_talk", "unsaid") or rng.random() < 0.3:
        return " ".join(plain(one, rng) for one in both)
    return f"It is {both[0].answer} or {both[1].answer}."


def _off_topic(world: World, question: Question, rng) -> str:
    """A good answer to another question, never to a held-out one."""
    while True:
        other = world.draw(rng, rng.choice(("fact", "note", "list", question.kind)), held_out=False)
        text, _ = write(world, other, rng.choice(("plain", "ideal", "ideal")), rng)
        if world.verdict(question.prompt, text) == "wrong":
            return text


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


_PLAIN_WORDS = {
    "The",
    "There",
    "After",
    "In",
    "It",
    "You",
    "Well,",
    "That",
    "Let",
    "Hello",
    "Goodbye",
}


def _lower_start(text: str) -> str:
    """The sentence as it goes on after a comma: only names keep their capital."""
    first = text.split(maxsplit=1)[0]
    return text[0].lower() + text[1:] if first in _PLAIN_WORDS else text


def _count(parts: list[str]) -> int:
    return sum(len(part.split()) for part in parts)
