"""WebGPT's loop over a local collection: search, open, quote, answer with citations (Nakano et al.
2021), and the best of several answers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gpt_jax.generate.sampling import Sampling
from gpt_jax.prompting.context import few_shot
from gpt_jax.prompting.retrieval import Chunk, Index
from gpt_jax.prompting.strategy import Ask, Steps

SYSTEM = (
    "Answer the question from documents. Each turn give one command:\n"
    "Search[words]: shows documents\nOpen[number]: shows one of them\n"
    "Quote[text]: keeps words of the open document\nAnswer[text]: ends; cite quotes as [1], [2]."
)
COMMAND = re.compile(r"(Search|Open|Quote|Answer)\[(.*)\]", re.DOTALL)
CITED = re.compile(r"\[(\d+)\]")


class Cited(NamedTuple):
    """An answer with what it cites.

    Attributes:
      text: of it.
      quotes: (source, words), in the order of their numbers, from 1.
      unfounded: numbers that are cited and are no quote's.
    """

    text: str
    quotes: tuple[tuple[str, str], ...]
    unfounded: tuple[int, ...]


@dataclasses.dataclass
class _Browser:
    chunks: Sequence[Chunk]
    index: Index
    shown: list[int] = dataclasses.field(default_factory=list)
    open: Chunk | None = None
    quotes: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def do(self, command: str, argument: str) -> str:
        """What comes of a command."""
        if command == "Search":
            self.shown = [number for _, number in self.index.find(argument, 5)]
            lines = (
                f"{place}. [{self.chunks[n].source}] {self.chunks[n].text[:80]}"
                for place, n in enumerate(self.shown, 1)
            )
            return "\n".join(lines) or "Nothing was found."
        if command == "Open":
            if not argument.strip().isdecimal() or not 0 < int(argument) <= len(self.shown):
                return f"There is no document {argument!r} among those shown."
            self.open = self.chunks[self.shown[int(argument) - 1]]
            return f"[{self.open.source}] {self.open.text}"
        words = " ".join(argument.split())
        if self.open is None or words not in " ".join(self.open.text.split()) or not words:
            return "These words are not in the open document."
        self.quotes.append((self.open.source, words))
        return f"Quote [{len(self.quotes)}] is kept."


def browse(
    question: str,
    chunks: Sequence[Chunk],
    index: Index,
    *,
    system: str = SYSTEM,
    limit: int = 12,
    sampling: Sampling = Sampling(temperature=0.0),
) -> Steps:
    """Browses until it answers, or has given so many commands.

    A quote is kept only if the open document says it word by word.

    Args:
      question: what is to be answered.
      chunks: the documents.
      index: that finds them.
      system: tells the model its commands.
      limit: the most commands.
      sampling: of a command.

    Returns:
      A Cited; None if it did not answer.
    """
    browser = _Browser(chunks, index)
    messages = few_shot(f"Question: {question}", system=system)
    for _ in range(limit):
        (found,) = yield Ask([messages], sampling)
        command = COMMAND.search(found.text)
        if command is None:
            seen = "That is no command."
        elif command.group(1) == "Answer":
            text = command.group(2).strip()
            numbers = {int(number) for number in CITED.findall(text)}
            unfounded = tuple(sorted(numbers - set(range(1, len(browser.quotes) + 1))))
            return Cited(text, tuple(browser.quotes), unfounded)
        else:
            seen = browser.do(command.group(1), command.group(2).strip())
        messages = [
            *messages,
            {"role": "assistant", "content": found.text},
            {"role": "user", "content": seen},
        ]
    return None


def best_of(begin: Callable[[int], Steps], score: Callable[[Cited], float], n: int = 4) -> Steps:
    """The best of n tries under a score, each with draws of its own (Nakano et al. 2021, 3.2).

    Args:
      begin: `try's number -> steps`; give each another seed.
      score: of an answer.
      n: tries.
    """
    found = []
    for number in range(n):
        one = yield from begin(number)
        if one is not None:
            found.append(one)
    return max(found, key=score, default=None)


def citations_kept(one: Cited) -> float:
    """A simple score: quotes that are cited, less what is cited and was never quoted."""
    numbers = {int(number) for number in CITED.findall(one.text)}
    return len(numbers) - 2.0 * len(one.unfounded)
