"""The ground-truth score of a reply: correct first, then brief, polite and well ended.

    style = 0.20 brief + 0.20 polite + 0.10 ended
    score = 0.50 + style   if the reply is correct
            0.25 style     if it is not          (at most 0.125)
            0              if it is empty

Correct: the reply states exactly one answer of the type that is asked for, it is the right one,
the sentence that states it speaks of nobody else, and nothing takes it back or leaves it open.
Questions in the reply count for nothing.
For sums: the last number stated is the result, every number belongs to the sum or to its worked
steps, and every equation holds. For small talk: the reply fits what was said.
Brief: 1 up to 12 words (17 for a question of two hops, so that it can be answered in steps),
falling in a straight line to 0 at 30 words. Signs are no words.
Polite: exactly one courtesy ("Sure!", "Of course,", ...); none or several give 0.
Ended: the stop token was emitted, right after sentence punctuation.
"""

import re
from typing import NamedTuple

from gpt_jax.data.microworld.language import COURTESY_PHRASES, HEDGES, RELATIONS, SMALL_TALK
from gpt_jax.data.microworld.questions import Question

CORRECT_WEIGHT, BRIEF_WEIGHT, POLITE_WEIGHT, ENDED_WEIGHT = 0.50, 0.20, 0.20, 0.10
WRONG_STYLE_SHARE = 0.25
BRIEF_WORDS, WORDS_OF_A_HOP, LONG_WORDS = 12, 5, 30

_COURTESY = re.compile(r"\b(?:" + "|".join(COURTESY_PHRASES) + r")\b", re.IGNORECASE)
_QUESTION = re.compile(r"[^.!?:;]*\?")
# A number after one of these is still to be reckoned with; it is not stated as a result.
_OPERAND = re.compile(r"(?:[+-]|\b(?:plus|minus|and|from|than|add|take))\s*\d+\W*$", re.IGNORECASE)
_EQUATION = re.compile(r"(\d+) ([+-]) (\d+) = (\d+)")


class Parts(NamedTuple):
    """The components of a gold score, each in [0, 1]."""

    correct: float
    brief: float
    polite: float
    ended: float

    @property
    def score(self) -> float:
        style = BRIEF_WEIGHT * self.brief + POLITE_WEIGHT * self.polite + ENDED_WEIGHT * self.ended
        return CORRECT_WEIGHT + style if self.correct else WRONG_STYLE_SHARE * style


def judge(
    question: Question,
    completion: str,
    stopped: bool,
    names: frozenset[str],
    candidates: frozenset[str],
) -> Parts:
    """Scores one completion.

    Args:
      names: every entity of the world, in lower case.
      candidates: every possible answer of the type that is asked for, in lower case.
    """
    text = completion.strip()
    if not text:
        return Parts(0.0, 0.0, 0.0, 0.0)
    free = BRIEF_WORDS + (WORDS_OF_A_HOP if question.kind == "two_hop" else 0)
    over = (len(re.findall(r"\w+", text)) - free) / (LONG_WORDS - free)
    return Parts(
        correct=float(is_correct(question, text, names, candidates)),
        brief=1.0 - min(max(over, 0.0), 1.0),
        polite=float(len(_COURTESY.findall(text)) == 1),
        ended=float(stopped and text[-1] in ".!?"),
    )


def is_correct(
    question: Question, completion: str, names: frozenset[str], candidates: frozenset[str]
) -> bool:
    """True if the completion states the right answer and no other; see the module's docstring."""
    completion = _QUESTION.sub("", completion)  # what is asked is not stated
    words = _words(completion)
    if HEDGES & set(words):
        return False
    if question.kind == "arithmetic":
        return _is_right_sum(question, completion)
    if question.kind == "small_talk":
        return set(SMALL_TALK) & set(words) == {question.answer}
    answer = question.answer.lower()
    cast = {word.lower() for subject, _, value in question.hops for word in (subject, value)}
    if (candidates - (cast - {answer})) & set(words) != {answer}:
        return False
    stating = [set(_words(part)) for part in re.split(r"[.!?:;]", completion)]
    return all(part & names <= cast for part in stating if answer in part)


def candidates(question: Question, values: dict[str, list[str]]) -> frozenset[str]:
    """Every possible answer to a question about a relation, in lower case."""
    if not question.hops:
        return frozenset()
    return frozenset(v.lower() for v in values[RELATIONS[question.hops[-1][1]].value])


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _is_right_sum(question: Question, completion: str) -> bool:
    numbers = re.findall(r"\d+", completion)
    allowed = {question.answer, *map(str, question.terms)}
    allowed |= {str(result) for *_, result in question.steps}
    equations = _EQUATION.findall(completion)
    return (
        bool(numbers)
        and not _OPERAND.search(completion)
        and numbers[-1] == question.answer
        and set(numbers) <= allowed
        and all(
            int(r) == (int(a) + int(b) if op == "+" else int(a) - int(b))
            for a, op, b, r in equations
        )
    )
