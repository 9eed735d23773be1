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

from gpt_jax.data.microworld.language import COURTESY_PHRASES
from gpt_jax.data.microworld.meanings import Said
from gpt_jax.data.microworld.question import Question
from gpt_jax.data.microworld.reading import ReplyReader

Verdict = Literal["right", "unknown", "wrong"]
RIGHT, UNKNOWN = 0.50, 0.20
BRIEF_WEIGHT, POLITE_WEIGHT, ENDED_WEIGHT = 0.20, 0.20, 0.10
STYLE_OF_THE_REST = 0.25
BRIEF_WORDS, WORDS_OF_STEPS, LONG_WORDS = 12, 5, 30
MOST_BESIDE = 2  # true facts beside the answer; more of them, or all that is shown, is reciting

_COURTESY = re.compile(r"\b(?:" + "|".join(COURTESY_PHRASES) + r")\b", re.IGNORECASE)


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


def judge(reader: ReplyReader, question: Question, completion: str, stopped: bool) -> Parts:
    """Scores one completion."""
    text = completion.strip()
    if not text:
        return Parts("wrong", 0.0, 0.0, 0.0)
    in_steps = question.kind in ("two_hop", "arithmetic")
    free = BRIEF_WORDS + WORDS_OF_STEPS * in_steps
    over = (len(re.findall(r"\w+", text)) - free) / (LONG_WORDS - free)
    return Parts(
        verdict=verdict(question, reader(question, text)),
        brief=1.0 - min(max(over, 0.0), 1.0),
        polite=float(len(_COURTESY.findall(text)) == 1),
        ended=float(stopped and text[-1] in ".!?"),
    )


def verdict(question: Question, said: list[Said]) -> Verdict:
    """What a reply is worth, by what its clauses say.

    Right: the answer is stated, and nothing is false, left open, or cannot be understood. Where
    the prompt does not say, it is right to say so. Unknown: it says that it does not know, and
    claims no answer.
    """
    kinds = {one.kind for one in said}
    if kinds & {"false", "unclear"} or _recites(question, said):
        return "wrong"
    if question.kind == "small_talk":
        talk = {one.talk for one in said if one.kind == "talk"}
        kinds = kinds - {"talk"} | ({"answer"} if talk == {question.answer} else talk)
        if kinds - {"answer", "nothing", "unknown"}:
            return "wrong"
    if "unknown" in kinds:
        if "answer" in kinds:
            return "wrong"
        return "unknown" if question.answer else "right"
    return "right" if "answer" in kinds else "wrong"


def _recites(question: Question, said: list[Said]) -> bool:
    """Whether the reply says everything there is to say, or one word over and over."""
    facts = {fact for one in said for fact in one.facts}
    beside = facts - set(question.hops)
    rivals = {fact for fact in beside & set(question.said) if fact[1] == question.hops[-1][1]}
    guessed = len(question.hops) > 1 and question.hops[0] not in facts and rivals
    bare, answers = sum(one.bare for one in said), sum(one.kind == "answer" for one in said)
    return bool(
        len(beside) > MOST_BESIDE
        or (len(question.said) > 2 and facts >= set(question.said))
        or guessed
        or bare > max(2, 2 * (answers - bare))
    )
