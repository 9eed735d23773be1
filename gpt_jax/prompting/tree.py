"""Tree of thoughts: several next steps are proposed, judged, and the best gone on with."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable

from gpt_jax.generate.sampling import Sampling
from gpt_jax.prompting.context import few_shot
from gpt_jax.prompting.strategy import Ask, Steps

PROPOSE = "{question}\nSteps so far:\n{steps}\nGive one next step, or the answer as 'Answer: ...'."
VALUE = "{question}\nSteps so far:\n{steps}\nHow good are they? Give a number from 0 to 10."
ANSWER = re.compile(r"Answer:\s*(.+)")


def number_of(text: str) -> float:
    """The first number of a text; -inf if there is none."""
    found = re.search(r"-?\d+(?:\.\d+)?", text)
    return float(found.group()) if found else -math.inf


def tree_of_thoughts(
    question: str,
    *,
    propose: str = PROPOSE,
    value: str = VALUE,
    grade: Callable[[str], float] = number_of,
    branches: int = 3,
    beam: int = 2,
    depth: int = 4,
    sampling: Sampling = Sampling(temperature=0.7, stop=("\n",)),
) -> Steps:
    """Breadth-first search with a beam (Yao et al. 2023, algorithm 1).

    Args:
      question: what is to be answered.
      propose, value: the prompts, with places for the question and the steps.
      grade: the number in what the model says of some steps.
      branches: steps that are proposed after each.
      beam: how many of the states are gone on with.
      depth: the most steps.
      sampling: of the steps.

    Returns:
      The answer in the best state that has one; else the last step of the best state.
    """
    states: list[tuple[str, ...]] = [()]
    best: tuple[float, str] = (-math.inf, "")
    sampling = dataclasses.replace(sampling, n=branches)
    judge = Sampling(temperature=0.0, max_new_tokens=8)
    for _ in range(depth):
        asked = [propose.format(question=question, steps="\n".join(steps)) for steps in states]
        found = yield Ask([few_shot(one) for one in asked], sampling)
        grown = [
            (*steps, found[i * branches + b].text.strip())
            for i, steps in enumerate(states)
            for b in range(branches)
        ]
        grown = list(dict.fromkeys(grown))  # the same step twice is one
        asked = [value.format(question=question, steps="\n".join(steps)) for steps in grown]
        said = yield Ask([few_shot(one) for one in asked], judge)
        graded = sorted(
            zip([grade(one.text) for one in said], grown, strict=True),
            key=lambda pair: -pair[0],
        )
        for points, steps in graded:
            answered = ANSWER.search(steps[-1])
            if answered and points > best[0]:
                best = points, answered.group(1).strip()
        states = [steps for _, steps in graded if not ANSWER.search(steps[-1])][:beam]
        if not states:
            break
    return best[1] or (states[0][-1] if states else "")
