"""Strategies as generators, and the one function that runs many of them side by side.

def twice(question: str) -> Steps:
    (first,) = yield Ask([question])
    (second,) = yield Ask([f"{question} Be sure of it. You said: {first.text}"])
    return second.text

answer_all(model.complete, twice, ["What is 3 plus 4?"])[0].text
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

from gpt_jax.errors import UserError
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import Complete, Completion, Prompt

MOST_ROUNDS = 200


class Ask(NamedTuple):
    """What a strategy asks next.

    Attributes:
      prompts: at least one; each is answered `sampling.n` times, one prompt after another.
      sampling: how to draw.
    """

    prompts: Sequence[Prompt]
    sampling: Sampling = Sampling(temperature=0.0)


Steps = Generator[Ask, list[Completion], Any]


class Result(NamedTuple):
    """What a strategy came to.

    Attributes:
      answer: what it returned; None if it was ended.
      read, written: tokens.
      calls: completions that it asked for.
      failed: why it has no answer; None if it has one.
    """

    answer: Any
    read: int
    written: int
    calls: int
    failed: str | None = None

    @property
    def tokens(self) -> int:
        """What the answer cost."""
        return self.read + self.written


@dataclasses.dataclass
class _Running:
    steps: Steps
    ask: Ask | None = None
    result: Result = Result(None, 0, 0, 0)


def answer_all(
    complete: Complete,
    strategy: Callable[[Any], Steps],
    questions: Sequence[Any],
    rounds: int = MOST_ROUNDS,
) -> list[Result]:
    """Runs a strategy on every question, in lockstep, so that what they ask is asked together.

    Args:
      complete: answers.
      strategy: begins the steps of a question.
      questions: whatever it takes.
      rounds: how often each may ask; one that still does has no answer.

    Raises:
      UserError: if a strategy asks nothing.
    """
    running = [_Running(strategy(question)) for question in questions]
    for one in running:
        _go_on(one, None)
    for _ in range(rounds):
        waiting = [one for one in running if one.ask]
        if not waiting:
            break
        alike: dict[Sampling, list[_Running]] = {}
        for one in waiting:
            alike.setdefault(one.ask.sampling, []).append(one)
        for sampling, some in alike.items():
            found = iter(complete([p for one in some for p in one.ask.prompts], sampling))
            for one in some:
                count = len(one.ask.prompts) * sampling.n
                answers = [next(found) for _ in range(count)]
                # A prompt is read once for all of its samples.
                read = sum(a.prompt_tokens for a in answers[:: sampling.n])
                written = sum(len(a.tokens) for a in answers)
                before = one.result
                one.result = before._replace(
                    read=before.read + read,
                    written=before.written + written,
                    calls=before.calls + count,
                )
                _go_on(one, answers)
    for one in running:
        if one.ask:
            one.steps.close()
            one.result = one.result._replace(failed=f"it still asked after {rounds} rounds")
    return [one.result for one in running]


def answer(complete: Complete, steps: Steps, rounds: int = MOST_ROUNDS) -> Result:
    """Runs the steps of one question; see `answer_all`."""
    return answer_all(complete, lambda steps: steps, [steps], rounds)[0]


def _go_on(one: _Running, answers: list[Completion] | None) -> None:
    """Sends the answers, and takes what is asked next or what was found."""
    try:
        one.ask = one.steps.send(answers)
    except StopIteration as end:
        one.ask, one.result = None, one.result._replace(answer=end.value)
        return
    if not one.ask.prompts:
        raise UserError("a strategy asked nothing; it must ask at least one prompt at a time")
