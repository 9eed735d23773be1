"""A model that says what a test wrote for it."""

from collections.abc import Callable

from gpt_jax.generate.text import Completion


def said(text: str) -> Completion:
    """A completion of one token per word."""
    words = text.split()
    return Completion(text, list(range(len(words))), [0.0] * len(words), "stop", 10)


class Scripted:
    """`complete` by a function of the last message's words; it keeps all that it was asked.

    Stop strings cut what it says, as they cut any model's answer.
    """

    def __init__(self, reply: Callable[[str, int], str]):
        self.reply, self.asked, self.calls = reply, [], 0

    def __call__(self, prompts, sampling):
        self.calls += 1
        found = []
        for prompt in prompts:
            self.asked.append(prompt)
            last = prompt if isinstance(prompt, str) else prompt[-1]["content"]
            for sample in range(sampling.n):
                text = self.reply(last, sample)
                ends = [text.find(stop) for stop in sampling.stop if stop in text]
                found.append(said(text[: min(ends)] if ends else text))
        return found
