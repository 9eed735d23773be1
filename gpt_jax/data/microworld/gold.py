"""The ground-truth score of a reply: right first, then brief, polite and well ended.

    style = 0.20 brief + 0.20 polite + 0.10 ended
    score = 0.50 + style          if the reply is right
            0.20 + 0.25 style     if it says that it does not know, though something is known
            0.25 style            if it is wrong     (at most 0.125)
            0                     if it is empty

Brief: 1 up to 12 words (17 for a question of two hops or a sum, so that it can be answered in
steps), falling in a straight line to 0 at 30 words. Signs are no words.
Polite: exactly one courtesy ("Sure!", "Of course,", ...); none or several give 0.
Ended: the stop token was emitted, right after sentence punctuation.
"""

import re
from typing import Literal, NamedTuple

from gpt_jax.data.microworld import exercises
from gpt_jax.data.microworld.facts import Facts
from gpt_jax.data.microworld.language import COURTESY_PHRASES, HEDGES, RELATIONS, SMALL_TALK
from gpt_jax.data.microworld.question import Question

Verdict = Literal["right", "unknown", "wrong"]
RIGHT, UNKNOWN = 0.50, 0.20
BRIEF_WEIGHT, POLITE_WEIGHT, ENDED_WEIGHT = 0.20, 0.20, 0.10
STYLE_OF_THE_REST = 0.25
BRIEF_WORDS, WORDS_OF_STEPS, LONG_WORDS = 12, 5, 30

_COURTESY = re.compile(r"\b(?:" + "|".join(COURTESY_PHRASES) + r")\b", re.IGNORECASE)
_ABSTAINS = re.compile(r"\b(?:i do not know|i don't know|does not say)\b", re.IGNORECASE)
_QUESTION = re.compile(r"[^.!?:;]*\?")
_EQUATION = re.compile(r"(\d+) ([+-]) (\d+) = (\d+)")


class Parts(NamedTuple):
    """The components of a gold score: the verdict, and numbers in [0, 1]."""

    verdict: Verdict
    brief: float
    polite: float
    ended: float

    @property
    def score(self) -> float:
        """In [0, 1]."""
        style = BRIEF_WEIGHT * self.brief + POLITE_WEIGHT * self.polite + ENDED_WEIGHT * self.ended
        if self.verdict == "right":
            return RIGHT + style
        return (UNKNOWN if self.verdict == "unknown" else 0.0) + STYLE_OF_THE_REST * style


def judge(facts: Facts, reader, question: Question, completion: str, stopped: bool) -> Parts:
    """Scores one completion."""
    text = completion.strip()
    if not text:
        return Parts("wrong", 0.0, 0.0, 0.0)
    in_steps = question.kind in ("two_hop", "arithmetic")
    free = BRIEF_WORDS + WORDS_OF_STEPS * in_steps
    over = (len(re.findall(r"\w+", text)) - free) / (LONG_WORDS - free)
    return Parts(
        verdict=verdict(facts, reader, question, text),
        brief=1.0 - min(max(over, 0.0), 1.0),
        polite=float(len(_COURTESY.findall(text)) == 1),
        ended=float(stopped and text[-1] in ".!?"),
    )


def verdict(facts: Facts, reader, question: Question, text: str) -> Verdict:
    text = _QUESTION.sub("", text)  # what is asked is not stated
    words = re.findall(r"[a-z]+", text.lower())
    names = {
        n.lower()
        for n in (
            *facts.entities["person"],
            *facts.strangers,
            *facts.readers,
            *facts.entities["place"],
            *facts.entities["thing"],
            *facts.entities["object"],
        )
    }
    if _ABSTAINS.search(text):
        claims = [
            v
            for vs in facts.values.values()
            for v in vs
            if v.lower() in words and v.lower() not in question.prompt.lower().split()
        ]
        said_values = {f[2].lower() for f in question.said} & set(words)
        if claims or said_values or re.search(r"\d", text):
            return "wrong"
        return "unknown" if question.answer else "right"
    if not question.answer or HEDGES & set(words):
        return "wrong"
    ok = _right(facts, question, text, words, names) and _true(facts, reader, question, text)
    return "right" if ok else "wrong"


def _true(facts, reader, question, text) -> bool:
    text = re.sub(_COURTESY.pattern + r"\s*[,:!]\s*", "", text, flags=re.IGNORECASE)
    for sentence in re.findall(r"[^.!?:;]+\.", text):
        for part in re.split(r", and |, (?=[a-z ]+ )", sentence.strip().rstrip(".")):
            part = part.strip()
            for s, n, v in reader.facts_in(part[:1].upper() + part[1:] + "."):
                known = {f[:2]: f[2] for f in (*question.said, *question.hops)}
                if (s, n) in known and known[s, n] != v:
                    return False
                if (s, n) not in known and facts.true.get((s, n)) != v:
                    return False
    return True


def _right(facts, question, text, words, names) -> bool:
    if question.kind == "arithmetic":
        numbers = re.findall(r"\d+", text)
        a, b = question.terms
        steps = [str(n) for n in exercises.steps(question)]
        if not numbers or numbers[-1] != question.answer:
            return False
        if any(
            int(r) != (int(x) + int(y) if op == "+" else int(x) - int(y))
            or sorted((int(x), int(y))) != sorted(question.terms)
            for x, op, y, r in _EQUATION.findall(text)
        ):
            return False
        before = _EQUATION.sub("", text)
        return re.findall(r"\d+", before) in ([], steps, [question.answer], [str(a), *steps])
    if question.kind == "numbers":
        numbers = re.findall(r"\d+", text)
        return ", ".join(numbers) == question.answer
    if question.kind == "list":
        if question.wanted == "count":
            return re.findall(r"\d+", text) == [question.answer]
        found = [w for w in words if w in exercises.LISTED]
        if question.after and found[:1] == [question.after]:
            found = found[1:]
        return found == [question.answer]
    if question.kind == "small_talk":
        return (
            set(SMALL_TALK) & set(words) == {question.answer}
            and not re.search(r"\d", text)
            and not names & set(words)
        )
    answer = question.answer.lower()
    kind = RELATIONS[question.hops[-1][1]].value
    candidates = {v.lower() for v in facts.values[kind]}
    cast = {w.lower() for s, _, v in question.hops for w in (s, v)}
    stating = [set(re.findall(r"[a-z]+", part)) for part in re.split(r"[.!?:;]", text.lower())]
    good = [part for part in stating if answer in part]
    if not good:
        return False
    return all(part & names <= cast and not (candidates - cast) & part for part in good) and all(
        part & candidates <= cast | {f[2].lower() for f in question.said} for part in stating
    )
