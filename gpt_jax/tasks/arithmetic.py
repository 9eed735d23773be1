"""Two-digit addition, worked out in steps, as a task whose answers a verifier can check.

    47+85          7+5=12 4+8+1=13 132

An answer adds the last digits, then the first ones and what is carried, and writes the two results
as one number. `demonstration` shows this way of writing, and sums of digits that are right; but
which digit of either number is added in a step, and whether one is carried, is drawn at random.
About one demonstration in 15 is right, and so is a model that has learned them: that digits of the
same place belong together it must find out from the verifier's verdict.
"""

from __future__ import annotations

import itertools
import re

import numpy as np

from gpt_jax.tasks.task import Task
from gpt_jax.text.chat import Message

SMALLEST, LARGEST = 10, 99
HELD_OUT = 0.1  # of the pairs, whichever number comes first
NUMBER = re.compile(r"[0-9]+")


def pairs(split: str) -> list[tuple[int, int]]:
    """The pairs of numbers of a split, "train" or "test"; 47+85 and 85+47 are in the same one."""
    numbers = range(SMALLEST, LARGEST + 1)
    unordered = list(itertools.combinations_with_replacement(numbers, 2))
    draws = np.random.default_rng(0).permutation(len(unordered)) / len(unordered)
    chosen = [p for p, u in zip(unordered, draws) if (u < HELD_OUT) == (split == "test")]
    return sorted({ordered for a, b in chosen for ordered in ((a, b), (b, a))})


def rows(split: str) -> list[dict]:
    """A row for every pair."""
    return [{"prompt": [Message(role="user", content=f"{a}+{b}")]} for a, b in pairs(split)]


def prompt(row: dict) -> list[Message]:
    """The turns of a row: one, the sum that is asked for."""
    return row["prompt"]


def score(row: dict, text: str, stopped: bool) -> float:
    """1 if the last word is the sum and the answer ended by itself, else 0."""
    a, b = map(int, row["prompt"][-1]["content"].split("+"))
    last = text.split(" ")[-1]
    return float(stopped and NUMBER.fullmatch(last) is not None and last.lstrip("0") == str(a + b))


def right_answer(a: int, b: int) -> str:
    """The sum, worked out."""
    return worked_out((a % 10, b % 10), (a // 10, b // 10), int(a % 10 + b % 10 > 9))


def worked_out(first: tuple[int, int], second: tuple[int, int], carried: int) -> str:
    """Two sums of digits, and the number that they make, right or wrong."""
    ones, tens = sum(first), sum(second) + carried
    steps = f"{first[0]}+{first[1]}={ones:02} {second[0]}+{second[1]}+{carried}={tens:02}"
    return f"{steps} {tens:02}{ones % 10}"


def demonstration(a: int, b: int, rng: np.random.Generator) -> str:
    """An answer in which it is left to chance which digits are added."""
    digits = (a // 10, a % 10), (b // 10, b % 10)
    first, second = (tuple(d[rng.integers(2)] for d in digits) for _ in range(2))
    return worked_out(first, second, int(rng.integers(2)))


ARITHMETIC = Task("arithmetic", rows, prompt, score)
