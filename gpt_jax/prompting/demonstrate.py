"""Conversations to learn a strategy from: what it asks, with the answers of somebody who knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gpt_jax.generate.text import Completion
from gpt_jax.prompting.context import turn
from gpt_jax.prompting.strategy import Steps
from gpt_jax.text.chat import Message

Teacher = Callable[[Sequence[Message]], str]


def demonstrate(steps: Steps, teacher: Teacher) -> list[dict]:
    """Runs a strategy on a teacher, tools and all, and keeps every exchange.

    A model that learns from these has seen each prompt as the strategy will write it.

    Args:
      steps: of one question.
      teacher: `messages -> answer`; asked for several answers to a prompt it gives one.

    Returns:
      {"messages"} records, one for every prompt that was asked, which end with the answer.
    """
    kept, answers = [], None
    while True:
        try:
            asked = steps.send(answers)
        except StopIteration:
            return kept
        answers = []
        for prompt in asked.prompts:
            messages = [turn("user", prompt)] if isinstance(prompt, str) else list(prompt)
            said = teacher(messages)
            kept.append({"messages": [*messages, turn("assistant", said)]})
            answers += [Completion(said, [], [], "stop", 0)] * asked.sampling.n
