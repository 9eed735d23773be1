"""Tokens to think with: chain of thought, self-consistency, reflection."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Callable, Sequence

from gpt_jax.generate.sampling import Sampling
from gpt_jax.prompting.context import GREEDY, few_shot, turn
from gpt_jax.prompting.strategy import Ask, Steps

STEP_BY_STEP = "Let us think step by step."
SO = "So the answer is"
DRAWN = Sampling(temperature=0.7)
CHECK = "Did this answer meet the request? Say yes, or say what is wrong with it."
AGAIN = "Then give a better answer."


def last_number(text: str) -> str:
    """The last number of a text, or all of it."""
    found = re.findall(r"-?\d+(?:\.\d+)?", text.replace(",", ""))
    return found[-1] if found else text.strip()


def chain_of_thought(
    question: str,
    shots: Sequence[tuple[str, str]] = (),
    extract: Callable[[str], str] = last_number,
    sampling: Sampling = GREEDY,
) -> Steps:
    """Steps before the answer, shown in the shots (Wei et al. 2022) or asked for in words (Kojima
    et al. 2022)."""
    asked = question if shots else f"{question}\n{STEP_BY_STEP}"
    (found,) = yield Ask([few_shot(asked, shots)], sampling)
    return extract(found.text)


def self_consistency(
    question: str,
    shots: Sequence[tuple[str, str]] = (),
    extract: Callable[[str], str] = last_number,
    n: int = 8,
    sampling: Sampling = DRAWN,
) -> Steps:
    """The most frequent answer of several chains (Wang et al. 2023); of ties the first."""
    asked = question if shots else f"{question}\n{STEP_BY_STEP}"
    sampling = dataclasses.replace(sampling, n=n)
    found = yield Ask([few_shot(asked, shots)], sampling)
    votes = collections.Counter(extract(one.text) for one in found)
    return votes.most_common(1)[0][0]


def says_yes(text: str) -> bool:
    """Whether a text begins with yes."""
    return re.match(r"\W*yes\b", text, re.IGNORECASE) is not None


def reflection(
    question: str,
    check: str = CHECK,
    *,
    again: str = AGAIN,
    good: Callable[[str], bool] = says_yes,
    times: int = 1,
    sampling: Sampling = GREEDY,
) -> Steps:
    """Asks the model whether its answer is good, and for another one if it says that it is not
    (Madaan et al. 2023; Shinn et al. 2023).

    Args:
      question: what is to be answered.
      check, again: the words that ask whether it is good, and for another one.
      good: whether what was said of an answer approves of it.
      times: the most checks.
      sampling: of answers and checks.

    Returns:
      The last answer.
    """
    messages = few_shot(question)
    (found,) = yield Ask([messages], sampling)
    for _ in range(times):
        messages = [*messages, turn("assistant", found.text), turn("user", check)]
        (said,) = yield Ask([messages], sampling)
        if good(said.text):
            break
        messages = [*messages, turn("assistant", said.text), turn("user", again)]
        (found,) = yield Ask([messages], sampling)
    return found.text
