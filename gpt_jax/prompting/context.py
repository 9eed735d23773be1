"""In-context learning: what stands before the question (Brown et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from gpt_jax.generate.sampling import Sampling
from gpt_jax.prompting.strategy import Ask, Steps
from gpt_jax.text.chat import Message

GREEDY = Sampling(temperature=0.0)
BE_SURE = "Let us work this out step by step to be sure we have the right answer."
EXPERT = "You are a leading expert on this topic, and you answer as exactly as you can."


def turn(role: str, content: str) -> Message:
    """One message."""
    return Message(role=role, content=content)


def few_shot(
    question: str, shots: Sequence[tuple[str, str]] = (), system: str | None = None
) -> list[Message]:
    """A question behind others that are answered: none is zero-shot, one is one-shot."""
    head = [turn("system", system)] if system else []
    shown = [turn(*pair) for q, a in shots for pair in (("user", q), ("assistant", a))]
    return [*head, *shown, turn("user", question)]


def direct(
    question: str,
    shots: Sequence[tuple[str, str]] = (),
    system: str | None = None,
    sampling: Sampling = GREEDY,
) -> Steps:
    """The answer as it comes."""
    (found,) = yield Ask([few_shot(question, shots, system)], sampling)
    return found.text


def persona(question: str, role: str = EXPERT, sampling: Sampling = GREEDY) -> Steps:
    """Asks for the best of what the model can imitate, which is more than its average."""
    return (yield from direct(question, system=role, sampling=sampling))


def be_sure(question: str, words: str = BE_SURE, sampling: Sampling = GREEDY) -> Steps:
    """Asks for care (Zhou et al. 2023 found these words by search; see `ape.py`)."""
    return (yield from direct(f"{question}\n{words}", sampling=sampling))
