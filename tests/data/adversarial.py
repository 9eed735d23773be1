"""Right answers bent until they are wrong, and dressed until they look odd: to try the judge.

Nothing here uses the judge or its words: an answer is changed as a text, by rules under which it
is plain whether it stays right.
"""

import re

from gpt_jax.data.microworld import World, answers
from gpt_jax.data.microworld.language import CLOSERS, COURTESIES, OPENERS, RELATIONS, SUM_QUESTIONS
from gpt_jax.data.microworld.mistakes import mistaken
from gpt_jax.data.microworld.question import Question

DOUBTS = ("Maybe {}", "{} Or not.", "Perhaps {}", "{} That is wrong.", "{} No.", "It is not so: {}")
UNKNOWN = ("I do not know.", "I don't know.", "I have no idea.")
# The verb of a plain answer, and what it becomes when it is denied.
DENIED = {
    " lives ": (" does not live ", " doesn't live ", " never lives "),
    " is ": (" is not ", " isn't ", " is never "),
    " has ": (" does not have ", " doesn't have "),
    " likes ": (" does not like ", " doesn't like "),
    " belongs ": (" does not belong ", " doesn't belong "),
    " are ": (" are not ", " aren't "),
    " comes ": (" does not come ", " doesn't come "),
    " = ": (" is not ",),
}


def wrong(world: World, question: Question, rng) -> dict[str, str]:
    """Wrong answers by the way in which they were made."""
    plain = answers.plain(question, rng)
    other = answers.plain(mistaken(world, question, rng), rng)
    doubt = rng.choice(DOUBTS)
    made = {
        "second answer": f"{plain} {other}",
        "taken back": f"{other} {plain}",
        "in doubt": doubt.format(plain if doubt[0] == "{" else plain[0].lower() + plain[1:]),
        "asked": plain.rsplit(". ", 1)[-1].rstrip(".") + "?",
        "echo": f"You asked: {question.prompt}",
        "words in no order": _shuffled(plain, question, rng),
    }
    if question.kind == "small_talk":
        made["names"] = f"{plain.rstrip('.')} {rng.choice(world.facts.strangers)}."
        del made["in doubt"]
        return made
    if not question.answer:
        subject, name, _ = question.hops[0]
        value = rng.choice(world.facts.values[RELATIONS[name].value])
        claim = RELATIONS[name].statements[1].format(s=subject, v=value)
        made |= {"claim": claim, "value": value, "claim beside": f"{plain} {claim}"}
        made["denied claim"] = _denied(
            RELATIONS[name].statements[0].format(s=subject, v=value), rng
        )
        del made["in doubt"]
        return made
    made |= {
        "denied": _denied(plain, rng),
        "abstains too": " ".join(rng.sample([plain, rng.choice(UNKNOWN)], 2)),
        "one value thrice": " ".join([question.answer] * 3) + ".",
    }
    if question.hops:
        made |= _wrong_facts(world, question, rng)
    if question.kind == "arithmetic":
        made |= _wrong_sums(question, rng)
    if question.kind == "list":
        made["all of it"] = ", ".join(question.items) + "."
    return made


def right(world: World, question: Question, rng) -> dict[str, str]:
    """Right answers by the way in which they were dressed."""
    plain = answers.plain(question, rng)
    made = {
        "lower case": plain.lower(),
        "no signs": f"{rng.choice(COURTESIES)} {plain}".rstrip("."),
        "shouted": plain.rstrip(".") + "!!!",
        "fluff before": f"{rng.choice(OPENERS)} {plain}",
        "fluff after": f"{plain} {rng.choice(CLOSERS)}",
        "words that say nothing": f"This is easy. {plain} Ask me again tomorrow!",
        "quoted": f'"{plain}"',
    }
    if question.kind == "small_talk":
        return made
    made["asks back"] = f"{plain} Do you want to know more?"
    if not question.answer:
        made["short form"] = plain.replace("do not", "don't")
        return made
    made |= {
        "bare": question.answer,
        "it is": f"It is {question.answer}.",
        "the answer is": f"The answer is {question.answer}",
        "said twice": f"{plain} Yes, it is {question.answer}.",
    }
    if question.hops:
        made |= _right_facts(world, question, rng)
    if question.kind == "arithmetic":
        made |= _right_sums(question)
    return made


def _wrong_facts(world: World, question: Question, rng) -> dict[str, str]:
    subject, name, value = question.hops[-1]
    statement = RELATIONS[name].statements[0]
    values = [v for v in world.facts.values[RELATIONS[name].value] if v not in (value, subject)]
    known = {fact[0] for fact in question.said} | {subject}
    told_alike = {fact[0] for fact in question.said if fact[1:] == (name, value)}
    alike = [s for (s, other), v in world.facts.true.items() if (other, v) == (name, value)]
    pool = {"thing": "thing", "object": "object", "place": "place"}.get(RELATIONS[name].subject)
    others = world.facts.entities[pool] if pool else world.facts.strangers
    others = [one for one in others if one not in (subject, *told_alike, *alike, value)]
    made = {
        "other subject": statement.format(s=rng.choice(others), v=value),
        "turned round": statement.format(s=value, v=subject),
        "two values": f"{value} and {rng.choice(values)}.",
        "one of two": f"{rng.choice(values)} or {value}.",
        "correction": f"{value}. No, {rng.choice(values)}.",
        "past": statement.format(s=subject, v=value).replace(" is ", " was "),
    }
    if " is " not in statement or name == "stuff":  # what was made of iron still is
        del made["past"]
    if len(question.said) > 2:
        shown = question.prompt.rpartition(". ")[0] + "."
        made["the whole note"] = shown.split(": ", 1)[1]
    elif known - {subject}:
        made["values listed"] = ", ".join(fact[2] for fact in question.said) + "."
        if len(question.said) < 2:
            del made["values listed"]
    return made


def _wrong_sums(question: Question, rng) -> dict[str, str]:
    a, b = question.terms
    operator, result = question.operator, int(question.answer)
    sign = 1 if operator == "+" else -1
    counted = [a + sign * step for step in range(1, b + 1)]
    shifted = [number + 1 for number in counted]
    off = result + rng.choice((1, 2))
    return {
        "wrong steps": f"{', '.join(map(str, shifted))}. So {a} {operator} {b} = {result}.",
        "a step too many": f"{', '.join(map(str, [*counted, result + sign]))}. So {a} {operator} "
        f"{b} = {result}.",
        "wrong result": f"{', '.join(map(str, counted))}. So {a} {operator} {b} = {off}.",
        "wrong terms": f"{a + 1} {operator} {b} = {result}.",
        "other sign": f"{a} {'-' if operator == '+' else '+'} {b} = {result}.",
        "equals too much": f"{a} {operator} {b} = {result} = {off}.",
        "no result": f"{a} {operator} {b}.",
        "its terms": f"{a}, {b}.",
    }


def _right_facts(world: World, question: Question, rng) -> dict[str, str]:
    subject, name, value = question.hops[-1]
    ways = [text.format(s=subject, v=value) for text in RELATIONS[name].statements]
    ways = [text[0].upper() + text[1:] for text in ways]
    made = {
        "another phrasing": rng.choice(ways),
        "one more phrasing, without signs": rng.choice(ways).rstrip(".").lower(),
        "two phrasings": " ".join(rng.sample(ways, 2)),
        "another's value denied": _not_another(world, question, rng),
    }
    if len(question.hops) == 1 and RELATIONS[name].subject == "person":
        made["he or she"] = rng.choice(ways[:3]).replace(subject, rng.choice(("he", "she")))
    true = [pair for pair in world.facts.true if pair not in world.facts.held_out]
    person, relation = rng.choice(true)
    beside = (
        RELATIONS[relation].statements[0].format(s=person, v=world.facts.true[person, relation])
    )
    made["another truth beside"] = f"{ways[0]} {beside[0].upper()}{beside[1:]}"
    return made


def _right_sums(question: Question) -> dict[str, str]:
    a, b = question.terms
    operator, result = question.operator, question.answer
    made = {
        "turned round": f"{result} = {a} {operator} {b}.",
        "in words": f"{a} {'plus' if operator == '+' else 'minus'} {b} equals {result}.",
        "close together": f"{a}{operator}{b}={result}",
        "told": f"{'The sum' if operator == '+' else 'The difference'} of {a} and {b} is {result}",
        "asked and answered": f"{SUM_QUESTIONS[operator][0].format(a=a, b=b)} {result}.",
    }
    if operator == "+":
        made["the other way"] = f"{b} + {a} = {result}."
    return made


def _not_another(world: World, question: Question, rng) -> str:
    subject, name, value = question.hops[-1]
    values = [v for v in world.facts.values[RELATIONS[name].value] if v not in (value, subject)]
    statement = RELATIONS[name].statements[0]
    denied = _denied(statement.format(s=subject, v=rng.choice(values)), rng)
    stated = statement.format(s=subject, v=value)
    return " ".join(text[0].upper() + text[1:] for text in (denied, stated))


def _denied(text: str, rng) -> str:
    """The sentence with its last verb denied."""
    verb = max(DENIED, key=text.rfind)
    if verb not in text:
        return f"It is not so that {text}"
    start, end = text.rsplit(verb, 1)
    return start + rng.choice(DENIED[verb]) + end


def _shuffled(text: str, question: Question, rng) -> str:
    """Its words with no two that stood side by side; those of small talk and of sums twice over."""
    words = re.findall(r"[\w]+|[-+=]", text)
    if len(words) < 4 or question.kind in ("arithmetic", "numbers", "list", "small_talk"):
        return " ".join(words[::-1] * 2)
    pairs = set(zip(words, words[1:]))
    for _ in range(1000):
        rng.shuffle(words)
        if not pairs & set(zip(words, words[1:])):
            return " ".join(words)
    return " ".join(words[::-1] * 2)
