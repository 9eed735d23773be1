"""ReAct: thoughts, actions with tools, and what comes of them, in turn (Yao et al. 2023)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from gpt_jax.generate.sampling import Sampling
from gpt_jax.prompting.context import GREEDY, few_shot
from gpt_jax.prompting.strategy import Ask, Steps
from gpt_jax.prompting.tools import Tool, described, use

SYSTEM = (
    "Answer the question by thoughts, actions and observations. An action is one of\n{tools}\n"
    "Finish[...]: gives the answer and ends\n"
    "Write 'Thought: ...' and then 'Action: Tool[argument]'; the observation is given to you."
)
ACTION = re.compile(r"Action:\s*(\w+)\s*\[(.*)\]\s*$", re.DOTALL | re.MULTILINE)
OBSERVED = "Observation:"


def react(
    question: str,
    tools: Sequence[Tool],
    *,
    system: str = SYSTEM,
    shots: Sequence[tuple[str, str]] = (),
    limit: int = 8,
    sampling: Sampling = GREEDY,
) -> Steps:
    """Acts until it finishes, or has acted so often.

    The model never writes an observation itself: what it says is cut there.

    Args:
      question: what is to be answered.
      tools: that may be used.
      system: what the model is told, with a place for the tools.
      shots: (question, whole transcript) pairs.
      limit: the most actions.
      sampling: of a thought with its action.

    Returns:
      The answer; None if it did not finish.
    """
    sampling = dataclasses.replace(sampling, stop=(*sampling.stop, OBSERVED))
    told, transcript = system.format(tools=described(tools)), ""
    for _ in range(limit):
        asked = f"Question: {question}\n{transcript}".rstrip()
        (found,) = yield Ask([few_shot(asked, shots, told)], sampling)
        said = found.text.strip()
        action = ACTION.search(said)
        if action is None:
            seen = "Error: there is no action; write Action: Tool[argument]."
        elif action.group(1).lower() == "finish":
            return action.group(2).strip()
        else:
            said = said[: action.end()]
            seen = use(tools, action.group(1), action.group(2))
        transcript += f"{said}\n{OBSERVED} {seen}\n"
    return None
