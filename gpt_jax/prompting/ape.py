"""Automatic prompt engineering: a model proposes instructions, and the best is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from gpt_jax.generate.sampling import Sampling
from gpt_jax.prompting.context import GREEDY, few_shot
from gpt_jax.prompting.strategy import Ask, Steps

PROPOSE = (
    "I gave a friend an instruction. Following it, the friend gave these answers:\n{pairs}\n"
    "What was the instruction? Say it in one sentence."
)


def propose_and_select(
    shown: Sequence[tuple[str, str]],
    held_out: Sequence[tuple[str, str]],
    *,
    score: Callable[[str, str], float],
    candidates: int = 8,
    propose: str = PROPOSE,
    sampling: Sampling = Sampling(temperature=0.9, stop=("\n",)),
    answering: Sampling = GREEDY,
) -> Steps:
    """The instruction that does best on held-out questions (Zhou et al. 2023, algorithm 1).

    Args:
      shown: (question, answer) pairs that the instruction is guessed from.
      held_out: others that it is tried on.
      score: `(right answer, answer) -> number`, more is better.
      candidates: instructions that are proposed.
      propose: the prompt, with a place for the pairs.
      sampling: of the instructions.
      answering: of the answers.

    Returns:
      A list of (mean score, instruction), the best first; the empty instruction is among them.
    """
    pairs = "\n".join(f"Input: {q}\nOutput: {a}" for q, a in shown)
    sampling = dataclasses.replace(sampling, n=candidates)
    found = yield Ask([few_shot(propose.format(pairs=pairs))], sampling)
    instructions = list(dict.fromkeys(["", *(one.text.strip() for one in found)]))
    asked = [
        few_shot(f"{instruction}\n{question}".strip())
        for instruction in instructions
        for question, _ in held_out
    ]
    answers = yield Ask(asked, answering)
    scores = [
        score(held_out[i % len(held_out)][1], one.text.strip()) for i, one in enumerate(answers)
    ]
    n = len(held_out)
    means = [sum(scores[i * n : (i + 1) * n]) / n for i in range(len(instructions))]
    return sorted(zip(means, instructions, strict=True), key=lambda pair: -pair[0])
